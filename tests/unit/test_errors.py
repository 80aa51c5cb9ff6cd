"""The hint that names what was probably meant."""

from hf_tsrep.errors import SettingsError, near_matches

KNOWN = ("learning_rate", "learning_rate_decay", "Scaler")


def test_the_nearest_names_come_first_and_as_many_as_asked_for():
    assert near_matches("lerning_rate", KNOWN) == " Did you mean 'learning_rate' or 'learning_rate_decay'?"
    assert near_matches("lerning_rate", KNOWN, count=1) == " Did you mean 'learning_rate'?"


def test_capitals_make_no_difference_and_names_are_spelled_as_they_are():
    assert near_matches("SCALAR", KNOWN, spell="--{}".format) == " Did you mean --Scaler?"


def test_nothing_is_said_where_nothing_is_near():
    assert near_matches("unlike", KNOWN) == ""
    assert near_matches("scal", ["scaler"], cutoff=0.9) == ""


def test_a_wrong_setting_is_a_wrong_value():
    assert issubclass(SettingsError, ValueError)
