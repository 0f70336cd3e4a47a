"""Keeps prompts out of log lines above DEBUG: errors of libraries may quote them."""

import logging
import re
import traceback

from jobs.job_dataclasses import Job

_WORD = re.compile(r"\w+")
_SHORTEST = 4
MASK = "…"


def without_prompt(text: str, job: Job) -> str:
    """Return an error's text with the words that the job's prompts have, too, replaced by an ellipsis.

    Short words in ASCII stay: nearly every text has them.
    """
    prompts = f"{job.prompt}\n{job.negative_prompt}".casefold()

    def masked(found: re.Match[str]) -> str:
        word = found.group()
        is_short = len(word) < _SHORTEST and word.isascii()
        return word if is_short or word.casefold() not in prompts else MASK

    return _WORD.sub(masked, text)


def log_error_of_jobs(log: logging.Logger, what: str, error: BaseException) -> None:
    """Log an error that may quote any of several prompts: its type and where it was raised, at DEBUG all of it."""
    places = "".join(traceback.format_tb(error.__traceback__)).rstrip()
    log.error("%s: %s\n%s", what, type(error).__name__, places)
    log.debug("%s", what, exc_info=error)
