"""Prompts that spell a term so that a filter overlooks it, and innocent ones that look as if they did."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.assess.prompt_filter import FoundTerm, PromptTerms
from tests.paths import ROOT

WORDS = """
nude nudes naked topless gore gory rape porn porno pornography sex sexy hentai nsfw penis vagina cock dick pussy tits
boobs nipples ass asshole anal anus blowjob cum dildo orgy bdsm erotic slut whore fuck fucking lolita pedophile incest
bloody corpse suicide torture nazi gun bra stab hate god bob lose
"""
TERMS = PromptTerms.parse(
    "\n".join([*WORDS.split(), "naked woman", "hand job", "4chan", "!cocktail", "голая", "schön", "裸体"]),
    "list",
)

EVASIONS = {
    "upper case": ("NUDE", "nude"),
    "Cyrillic letters": ("nudе with а hаt", "nude"),
    "Cyrillic capitals": ("НЕNТАI", "hentai"),
    "a word wholly of Cyrillic letters": ("a ѕех scene", "sex"),
    "Greek letters": ("nυde, ρorn", "nude"),
    "Greek letters that NFKC takes for others": ("a coϲk", "cock"),
    "Latin letters in a Cyrillic word": ("гoлaя женщина", "голая"),
    "Armenian and Cherokee letters": ("ոude", "nude"),
    "fullwidth letters": ("ｎｕｄｅ", "nude"),
    "mathematical letters": ("𝓷𝓾𝓭𝓮", "nude"),
    "letters in circles": ("ⓝⓤⓓⓔ", "nude"),
    "letters on black": ("🅽🆄🅳🅴", "nude"),
    "small capitals": ("ɴᴜᴅᴇ", "nude"),
    "zero-width space": ("n\u200bu\u200bd\u200be", "nude"),
    "zero-width joiners": ("nu\u200dde, nu\u200cde", "nude"),
    "soft hyphen": ("nu\u00adde", "nude"),
    "word joiner and combining grapheme joiner": ("n\u2060u\u034fde", "nude"),
    "tag characters": ("nu\U000e0064de", "nude"),
    "marks through the letters": ("n\u0336u\u0336d\u0336e\u0336", "nude"),
    "marks above the letters": ("n\u0300u\u0301d\u0302e\u0303", "nude"),
    "letters with diacritics": ("ñüdé", "nude"),
    "one letter with a diacritic": ("a nüde woman", "nude"),
    "letters with strokes": ("pørn", "porn"),
    "digits": ("n4k3d", "naked"),
    "a digit": ("p0rn", "porn"),
    "mostly digits": ("h3n741", "hentai"),
    "dollar": ("$ex", "sex"),
    "dollars": ("a$$", "ass"),
    "at": ("n@ked", "naked"),
    "exclamation mark": ("d!ck", "dick"),
    "digits before an exclamation mark": ("n4ked!", "naked"),
    "digits and a weight": ("(n4ked:1.3)", "naked"),
    "spaces": ("n u d e", "nude"),
    "spaces in a sentence": ("a n u d e woman", "nude"),
    "dots": ("n.u.d.e", "nude"),
    "dots in a sentence": ("a p.o.r.n. film", "porn"),
    "dashes": ("n-u-d-e", "nude"),
    "underscores": ("n_u_d_e", "nude"),
    "stars": ("n*u*d*e", "nude"),
    "lines": ("n\nu\nd\ne", "nude"),
    "one dot": ("nu.de", "nude"),
    "one dash": ("na-ked", "naked"),
    "spaces and digits": ("n 4 k 3 d", "naked"),
    "a phrase with digits": ("a nak3d w0man", "naked"),
    "a phrase of single letters": ("h a n d j o b", "hand job"),
    "spaces before a spaced word": ("n u d e w o m a n", "nude"),
    "spaces before a spaced word after a comma": ("n u d e, w o m a n", "nude"),
    "spaces after a single letter": ("x n u d e", "nude"),
    "spaces after single letters": ("b&w n u d e", "nude"),
    "spaces after a letter with a comma": ("size s, n u d e", "nude"),
    "spaces before a number": ("n u d e 4 k", "nude"),
    "spaces after a number": ("f 2 n u d e", "nude"),
    "spaces and three letters between commas": ("size m, s e x, 4 k", "sex"),
    "spaces and three letters between numbers": ("2 s e x 4", "sex"),
    "spaces, digits and repeats in a longer run": ("x n n n 4 k 3 d y", "naked"),
    "spaces in one word of a phrase, after a letter": ("b n a k e d woman", "naked"),
    "spaces in a phrase with a short word": ("x h a n d j o b y", "hand job"),
    "a word as it stands beside one within it": ("c o c k t a i l, c o c k s", "cock"),
    "a look-alike with a digit after it": ("nud\u04352", "nude"),
    "digits spelt for letters, and one after them": ("n4k3d2", "naked"),
    "digits before digits that are spelt for letters": ("2n4k3d", "naked"),
    "a sign spelt for a letter, and a digit": ("$ex2", "sex"),
    "a phrase with digits at both words": ("h4nd job2", "hand job"),
    "dimensions before a word": ("2dhentai", "hentai"),
    "a resolution before a word": ("4knud\u00e9", "nude"),
    "dashes and a digit": ("n-u-d-e2", "nude"),
    "one dash and a digit": ("na-ked2", "naked"),
    "Cyrillic that only readers take for Latin": ("\u043fude, \u043fak\u0435d", "nude"),
    "other Cyrillic that only readers take for Latin": ("n\u0438d\u044d po\u044f\u043f", "nude"),
    "repeated letters": ("nuuuudeeee", "nude"),
    "repeated letters of a pair": ("pusssssy", "pussy"),
    "a letter that English doesn't double": ("nuude", "nude"),
    "several at once": ("N.Ü.D.3", "nude"),
    "Cyrillic and digits": ("рuѕ5у", "pussy"),
    "Chinese without spaces": ("一个nude女人", "nude"),
    "a term with a digit": ("4ch\u00e1n", "4chan"),
    "a term with a digit, spaces": ("x 4 c h a n", "4chan"),
    "German": ("sch\u00f6\u200bn", "schön"),
}

INNOCENT = [
    *(
        "Scunthorpe",
        "an assassin at night",
        "a bunch of grapes",
        "my therapist",
        "a cocktail",
        "Essex and Sussex",
    ),
    *(
        "a 4k photo",
        "8k uhd, 3d render",
        "the 1980s",
        "in the 90's",
        "2k22",
        "the A55 road",
        "B52 bomber, F16, M1A1",
    ),
    *(
        "H2O and CO2",
        "R2D2 and C3PO",
        "U.S.S. Enterprise",
        "A.S.S.E.T.",
        "T.I.T.A.N.",
        "N.A.S.A.",
        "SS Great Britain",
    ),
    *("the letters A B C D E F", "plan B or C", "a vitamin C, D and E pill", "J. R. R. Tolkien", "S E A"),
    *("$5 and 50 €", "100 % cotton, A+ grade", "C++ and C#", "a++ (masterpiece:1.4)", "<lora:detail_v2:0.8>"),
    *(
        "analysis of a canal",
        "cumin, cumulus and document",
        "rapeseed field",
        "shitake",
        "a peacock",
        "Hancock tower",
    ),
    *(
        "good food",
        "loose clothes",
        "a boob tube",
        "annals of history",
        "hatter",
        "stabbing is no term: stable",
    ),
    *("who're you", "as's and is's", "it's a job by hand", "her hat. E-mail me", "s. e. xavier"),
    *(
        "красивый дом у реки",
        "хор и роса",
        "сок, перо и сахар 4k",
        "мужчина в шляпе, cinematic",
        "нате вам, друзья",
    ),
    *("η γάτα στο σπίτι", "ένα όμορφο σπίτι δίπλα στη θάλασσα", "Ελλάδα, 35mm photo"),
    *(
        "一个女人在花园里，8k",
        "美しい猫と犬",
        "아름다운 고양이",
        "बिल्ली और कुत्ता",
        "قطة جميلة",
        "חתול יפה",
        "แมวสวย",
    ),
    *("👩‍❤️‍💋‍👩 at the beach", "👨‍👩‍👧‍👦", "🇩🇪 and 🇳🇺 flags", "🏳️‍🌈 🧑🏽‍🚀", "4️⃣ cats"),
    *("für die Küche, Fußgänger auf der Brücke", "Äpfel, Öl, Straße, schon", "ein Maß Bier, größer"),
    *("duvara göre çizilmiş bir ev, ışık", "göre", "İstanbul'da sıcak bir gün", "güneş ve ağaç", "bir gün"),
    *("fromage râpé", "pâte, forêt, hâte et fête", "una niña pequeña", "coração e maçã", "góry i morze"),
    *(
        "những bông hoa",
        "cúm và thông",
        "smørrebrød på bordet",
        "brå och åss",
        "štáb, čaj a žena",
        "kæmpe hus",
    ),
    *("c o c k t a i l", "the letters A S S E T", "T I T A N", "x + i + 1", "C(a, [-47, 0, 4], s)), s)"),
    *("commit 7803fa6", "4kids", "T-образный дом", "3D-модель и IT-отдел"),
    *("", " ", ".", "a", "é", "$", "\u200b", "1 2 3 4"),
]


@pytest.mark.parametrize("how", EVASIONS)
def test_a_term_is_found_however_it_is_spelt(how: str) -> None:
    prompt, term = EVASIONS[how]
    found = TERMS.find(prompt)
    assert found is not None, prompt
    assert found.term == term


def test_a_disguise_is_told_from_a_term_as_it_is_listed() -> None:
    assert TERMS.find("a n.u.d.e, or nude, woman") == FoundTerm("nude")
    assert TERMS.find("a n.u.d.e woman") == FoundTerm("nude", is_disguised=True)
    assert str(TERMS.find("a n.u.d.e woman at the Louvre")) == "'nude' in another spelling"
    assert str(TERMS.find("a nude woman at the Louvre")) == "'nude'"


@pytest.mark.parametrize("sign", "|$!@+€.-")
@pytest.mark.parametrize("term", ["hentai", "pornography", "naked", "blowjob"])
def test_a_sign_between_all_letters_is_left_out(term: str, sign: str) -> None:
    found = TERMS.find(f"a {sign.join(term)} photo")
    assert found == FoundTerm(term, is_disguised=True)


@pytest.mark.parametrize("prompt", INNOCENT)
def test_an_innocent_prompt_passes(prompt: str) -> None:
    assert TERMS.find(prompt) is None


def test_prompts_of_the_examples_pass() -> None:
    examples = (ROOT / "examples" / "prompts.txt").read_text(encoding="utf-8").splitlines()
    assert len(examples) > 3
    assert [prompt for prompt in examples if TERMS.find(prompt)] == []


def test_words_after_an_exclamation_mark_are_read_as_they_stand() -> None:
    terms = PromptTerms.parse("pore\n!pöre  # of a language where it is another word\n", "list")
    assert terms.find("pöre") is None
    assert terms.find("p0re") == FoundTerm("pore", is_disguised=True)
    assert terms.find("pore") == FoundTerm("pore")
    assert terms.listed == ["pore"]


@pytest.mark.parametrize(
    "prompt", ["nude2", "2nude", "4k,nude8k", "nude\u00b2", "nude\u2460", "nude\u1369", "a nude1girl"]
)
def test_digits_are_words_apart_as_to_the_text_encoder(prompt: str) -> None:
    assert TERMS.find(prompt) == FoundTerm("nude")


@pytest.mark.parametrize("prompt", ["4chan", "4 chan", "4-chan"])
def test_a_term_with_a_digit_is_found_as_the_text_encoder_reads_it(prompt: str) -> None:
    assert TERMS.find(prompt) == FoundTerm("4chan")


def test_numbers_are_whole_words() -> None:
    terms = PromptTerms.parse("area 51\nb52", "list")
    assert terms.find("area 510, b523, ab52") is None
    assert terms.find("area51") == FoundTerm("area 51")
    assert terms.find("b52s") == FoundTerm("b52")


@given(st.text(max_size=60))
def test_any_text_is_read(text: str) -> None:
    TERMS.find(text)


@given(st.sampled_from(["nude", "naked", "hentai"]), st.data())
def test_single_letters_may_stand_apart_by_whatever_is_no_letter(term: str, data: st.DataObject) -> None:
    between = st.text(st.sampled_from(" .-_*/,;:~\u2003·"), min_size=1, max_size=3)
    spelt = "".join(letter + data.draw(between) for letter in term)
    assert TERMS.find(f"seen {spelt} there") in (FoundTerm(term), FoundTerm(term, is_disguised=True))
