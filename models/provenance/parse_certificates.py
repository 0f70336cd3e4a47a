"""X.509 certificates out of PEM, with one error for whatever is wrong with them."""

from cryptography import x509


def parse_certificates(pem: bytes) -> list[x509.Certificate]:
    """Return the certificates in a PEM file. Raises ValueError if there are none, or one of them can't be read."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except Exception as error:  # InvalidVersion, say, is no ValueError
        raise ValueError(str(error)) from None


def extensions_of(certificate: x509.Certificate) -> x509.Extensions:
    """Return the extensions of a certificate, which are parsed only now. Raises ValueError if they can't be read."""
    try:
        return certificate.extensions
    except Exception as error:  # neither is DuplicateExtension
        raise ValueError(str(error)) from None
