"""Errors of jobs are logged without what their prompts say."""

import logging
from dataclasses import replace

import pytest
from sqlalchemy import Engine

from jobs.job_dataclasses import Job
from jobs.logs.prompt_masking import log_error_of_jobs, without_prompt
from tests.factories import make_lane, take_one


@pytest.fixture
def job(engine: Engine) -> Job:
    found = take_one(engine, make_lane(engine, 1))
    return replace(found, prompt="A zanzibar fox, 狐の絵", negative_prompt="Kilimanjaro")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("CUDA error: device-side assert triggered", "CUDA error: device-side assert triggered"),
        ("can't tokenise 'A zanzibar fox, 狐の絵'", "can't tokenise 'A … fox, …'"),
        ("token ZANZIBAR is unknown", "token … is unknown"),
        ("token zanzi is unknown", "token … is unknown"),
        ("kilimanjaro; 狐の絵", "…; …"),
        ("", ""),
    ],
)
def test_words_of_the_prompts_are_masked(job: Job, text: str, shown: str) -> None:
    assert without_prompt(text, job) == shown


def test_an_error_of_several_jobs_tells_its_type_and_place(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        try:
            raise KeyError("a zanzibar fox")
        except KeyError as error:
            log_error_of_jobs(logging.getLogger(__name__), "3 images could not be delivered", error)
    told, details = caplog.records
    assert (told.levelname, details.levelname) == ("ERROR", "DEBUG")
    assert told.getMessage().startswith("3 images could not be delivered: KeyError\n")
    assert f'File "{__file__}", line' in told.getMessage()
    assert details.exc_info is not None
