"""Fixtures of the tests of nanos2t/inspection: the bundled model, and its report of the sample."""

import pytest
from helpers.report import SAMPLE

import nanos2t
from nanos2t.inspection import report


@pytest.fixture(scope="package")
def stt():
    return nanos2t.load()


@pytest.fixture(scope="package")
def sample_run(stt) -> dict:
    return report.analyse_recording(stt, SAMPLE, "sample.wav")
