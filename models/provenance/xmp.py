"""XMP metadata of image files: how the picture came to be, for readers that know no C2PA."""

PNG_KEYWORD = "XML:com.adobe.xmp"
_IPTC_EXTENSION = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"


def source_type_xmp(source_type: str) -> str:
    """Return an XMP packet with the IPTC property DigitalSourceType, a URI without characters that XML escapes.

    IPTC Photo Metadata Standard 2025.1, section "Digital Source Type"; XMP specification, part 3: how formats hold it.
    """
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="{_IPTC_EXTENSION}"'
        f' Iptc4xmpExt:DigitalSourceType="{source_type}"/>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    )
