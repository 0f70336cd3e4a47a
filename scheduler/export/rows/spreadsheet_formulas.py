"""Which texts a spreadsheet would run as a formula, so that files of CSV must quote them."""

FORMULA = "^[=+\\-@\t\r\n＝＋－＠]"
"""A regular expression of how such a text begins (OWASP, CSV Injection)."""
