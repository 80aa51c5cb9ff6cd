"""Domains by name: how a corpus is called, and which of a model's domains it is."""

import pytest

from hf_tsrep import CrossTimeNetConfig, TS2VecConfig
from hf_tsrep.data import CorpusError
from hf_tsrep.data.domains import domain_name, domain_names, find_domain


@pytest.mark.parametrize(
    ("corpus", "domain"),
    [
        ("sensor/HAR", "har"),
        ("ucr/ECG5000", "ecg5000"),
        ("sensor/Epilepsy_TSTCC", "epilepsy-tstcc"),
        ("some/folder/My Series.csv", "my-series"),
        ("owner/name:config", "name-config"),
        ("anomaly/NAB/realKnownCause/nyc_taxi", "nyc-taxi"),
        ("./folder/", "folder"),
    ],
)
def test_the_domain_is_named_by_the_corpus(corpus, domain):
    assert domain_name(corpus) == domain


def test_a_name_without_letters_is_refused():
    with pytest.raises(CorpusError, match="no letter"):
        domain_name("data/___.csv")


def test_a_domain_also_goes_by_the_corpus_s_full_and_short_names():
    assert domain_names("epilepsy", "sensor/Epilepsy_TSTCC") == ["epilepsy", "epilepsy-tstcc"]
    assert domain_names("sensor/Epilepsy_TSTCC", "sensor/Epilepsy_TSTCC") == ["epilepsy-tstcc", "epilepsy"]
    assert domain_names("", "datasets") == ["datasets"]


NUMBERS = {"num_input_channels": 1, "patch_length": 2, "codebook_size": 4}


def config_of(*names):
    return CrossTimeNetConfig(domains=[{"name": name, **NUMBERS} for name in names])


def test_a_corpus_is_the_domain_that_is_said_else_that_of_its_name_else_the_only_one():
    several = config_of("har", "epilepsy")
    assert find_domain(several, None, "", "sensor/HAR") == "har"
    assert find_domain(several, None, "", "sensor/Epilepsy_TSTCC") == "epilepsy"  # by its short name
    assert find_domain(several, None, "copies/Epilepsy.csv", "sensor/HAR") == "epilepsy"
    assert find_domain(several, "epilepsy", "har", "sensor/HAR") == "epilepsy"
    assert find_domain(config_of("har"), None, "", "uea/BasicMotions") == "har"
    assert find_domain(TS2VecConfig(), None, "", "___") is None
    assert find_domain(None, None, "", "any") is None


def test_a_domain_that_is_missing_or_unknown_is_named():
    several = config_of("har", "epilepsy")
    with pytest.raises(ValueError, match="2 domains; name one: domain='har' or 'epilepsy'"):
        find_domain(several, None, "mine.csv", "mine")
    with pytest.raises(ValueError, match=r"Unknown domain 'hra'. Did you mean 'har'\? Domains: har, epilepsy"):
        find_domain(several, "hra", "", "sensor/HAR")
    with pytest.raises(ValueError, match="domain='har': ts2vec has no domains; leave it out"):
        find_domain(TS2VecConfig(), "har", "", "sensor/HAR")
