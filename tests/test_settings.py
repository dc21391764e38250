"""Settings: names that are nearly right, what the environment changes, and where everything lies."""

import pytest

from helpers import settings

FOLDERS = ("RESULTS_DIR", "BUILD_DIR", "REPORT_DIR")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in (*FOLDERS, "PROFILE", "SPARSITY", "CIFAR_DIR", "WEIGHTS_DIR"):
        monkeypatch.delenv(name, raising=False)


def test_an_unknown_name_gets_the_nearest_or_the_list():
    assert settings.choose("rule", "he", ("he", "uniform")) == "he"
    with pytest.raises(ValueError, match=r"unknown rule 'unifrom': did you mean 'uniform'\?"):
        settings.choose("rule", "unifrom", ("he", "uniform"))
    with pytest.raises(ValueError, match="choose from 'he', 'uniform'"):
        settings.choose("rule", "qqq", (name for name in ("he", "uniform")))


def test_the_profile_is_the_one_asked_for_then_the_environment_s_then_the_demo(monkeypatch):
    assert settings.profile().name == "demo"
    monkeypatch.setenv("PROFILE", "paper")
    assert settings.profile().name == "paper" and settings.profile("study").name == "study"
    monkeypatch.setenv("PROFILE", "")
    assert settings.profile().name == "demo"
    with pytest.raises(ValueError, match="did you mean 'study'"):
        settings.profile("studdy")


def test_sparsity_is_a_share_and_of_the_demo_alone(monkeypatch):
    monkeypatch.setenv("SPARSITY", "0.9")
    chosen = settings.profile("demo")
    assert chosen.magnitude_sparsity_pct == chosen.saliency_sparsity_pct == 90
    with pytest.raises(ValueError, match="'study' shows results made at its own"):
        settings.profile("study")
    for wrong in ("0", "1", "90", "nan", "-0.1", "inf", "much"):
        monkeypatch.setenv("SPARSITY", wrong)
        with pytest.raises(ValueError, match=f"SPARSITY={wrong} is not a share"):
            settings.profile("demo")


def test_only_the_study_in_its_own_folders_is_written_where_pages_are_committed(monkeypatch, tmp_path):
    committed = settings.ROOT / "reports", settings.ROOT / "figures" / "front.png"

    def places(profile):
        return settings.report_dir(profile), settings.figure_path(profile, "front")

    assert places("study") == committed
    assert all(
        settings.build_dir(name) in place.parents or settings.build_dir(name) == place
        for name in ("demo", "paper")
        for place in places(name)
    )
    for name in FOLDERS:
        with monkeypatch.context() as patch:
            patch.setenv(name, str(tmp_path))
            assert not set(places("study")) & set(committed)
            assert all(settings.ROOT / "reports" not in place.parents for place in places("study"))


def test_results_of_the_demo_lie_with_its_build_and_others_where_they_are_committed(monkeypatch, tmp_path):
    assert settings.results_dir("demo") == settings.ROOT / "build" / "demo" / "results"
    assert settings.results_dir("study") == settings.ROOT / "results" / "study"
    monkeypatch.setenv("RESULTS_DIR", str(tmp_path))
    assert settings.results_dir("demo") == tmp_path / "demo" and settings.results_dir("study") == tmp_path / "study"
    for path in (settings.result_path("study", "cifar10", "dense"), settings.kept_path("study", "cifar10", "snip-s80")):
        assert tmp_path / "study" in path.parents  # masks are kept with the results
    assert tmp_path not in settings.network_path("study", "cifar10", "dense").parents


def test_no_two_files_of_an_experiment_share_a_place():
    of = ("study", "cifar10", "dense")
    paths = (settings.result_path, settings.kept_path, settings.network_path, settings.checkpoint_path, settings.lock_path)
    assert len({path(*of) for path in paths}) == len(paths)


def test_a_folder_may_begin_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CIFAR_DIR", "~/cifar")
    assert settings.cifar_dir() == tmp_path / "cifar"
    monkeypatch.delenv("CIFAR_DIR")
    assert settings.cifar_dir() is None


def test_trainings_from_nothing_begin_as_their_data_set_does():
    study, paper = settings.profile("study"), settings.profile("paper")
    assert study.start_of("cifar10") == settings.Start(large_head=True, dropout=0.2)
    assert study.start_of("cifar100") == settings.Start()
    assert paper.start_of("cifar10") == paper.start_of("cifar100") == settings.Start(dropout=0.2)
