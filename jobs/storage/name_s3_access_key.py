"""Names the key that S3 requests are signed with: its last four characters and where boto3 found it, never a secret."""

from typing import Any

from jobs.mask_passwords_and_escape_text import visible

_SHOWN = 4
_SHORTEST = 8
"""Of shorter ids nothing is shown: four characters would be most of it."""

_FOUND_IN = {
    "env": "the environment (AWS_ACCESS_KEY_ID)",
    "explicit": "the program",
    "shared-credentials-file": "the shared credentials file",
    "config-file": "the AWS configuration file",
    "boto-config": "the boto configuration file",
    "ec2-credentials-file": "the file of AWS_CREDENTIAL_FILE",
    "custom-process": "credential_process of",
    "assume-role": "the assumed role of",
    "assume-role-with-web-identity": "a web identity (AWS_WEB_IDENTITY_TOKEN_FILE)",
    "container-role": "the container's role",
    "iam-role": "the instance's role",
    "sso": "a single sign-on",
    "sso-bearer": "a single sign-on",
    "login": "aws login",
}
"""Botocore's names of its credential providers, and what users call them."""

_FILES = {
    "shared-credentials-file": "credentials_file",
    "config-file": "config_file",
    "custom-process": "config_file",
    "assume-role": "config_file",
}
_PROFILE = {*_FILES, "sso", "sso-bearer", "login"}

NONE_FOUND = "no key: boto3 found none in the environment, the shared credentials file, the AWS configuration or a role"


def masked(key_id: str) -> str:
    """Return an access key id with all but its last four characters left out."""
    return f"…{visible(key_id[-_SHOWN:])}" if len(key_id) >= _SHORTEST else "…"


def place_of(session: Any, method: str | None) -> str:
    """Return where a boto3 session found its key; `method` is botocore's name of the credential provider."""
    found = _FOUND_IN.get(method or "", method or "an unknown place")
    if name := _FILES.get(method or ""):
        # What boto3's session wraps: boto3 itself doesn't say which files it read.
        found += f" {session._session.get_config_variable(name)}"
    return f"{found}, profile {session.profile_name}" if method in _PROFILE else found
