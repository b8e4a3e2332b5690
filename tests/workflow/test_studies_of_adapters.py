"""What a study of adapters plans, and what is wrong with one before anything runs."""

import pytest

STUDY = "results/adaptive/ViT-Tiny/finetuned/tiny"


def test_a_study_is_planned_by_its_name(fresh):
    planned = fresh.planned("tiny_adapters")
    assert planned["tabulate_adaptive"] == planned["tabulate_cost"] == 1
    assert planned["plot_adaptive"] == planned["compare_on_corrupted"] == 1
    # The two of the encoder, and the one that is taken from the other.
    assert planned["adapt_model"] == 3
    assert planned["adapt_on_corrupted"] == 1
    assert planned["evaluate_adapted"] == 2
    assert planned["evaluate_transferred"] == planned["evaluate_adapted_on_corrupted"] == 1
    # Zero-shot and one merger, and with the fine-tuned models on corrupted images, too.
    assert planned["evaluate_zeroshot"] == planned["evaluate_merged"] == 1
    assert planned["evaluate_on_corrupted"] == 2
    assert planned["evaluate_finetuned_on_corrupted"] == 1


def test_a_table_alone_plans_no_figures_and_no_corruptions(fresh):
    planned = fresh.planned(f"{STUDY}/tiny_adapters/summary.csv")
    assert planned["tabulate_adaptive"] == 1
    assert not {"plot_adaptive", "tabulate_cost", "adapt_on_corrupted"} & planned.keys()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            f"{STUDY}/tiny/summary.csv",
            "unknown study of adapters 'tiny'; config has: adaptive_demo",
        ),
        (
            "results/adaptive/ViT-Nano/finetuned/tiny/tiny_adapters/cost.csv",
            "has no entry ViT-Nano/finetuned/tiny; it has: ViT-Tiny/finetuned/tiny",
        ),
        (
            "results/adaptive/T5-Nano/finetuned/text4/adaptive_demo/corrupted.csv",
            "has no `corruptions`",
        ),
    ],
)
def test_what_a_study_has_not_is_told(fresh, target, message):
    done = fresh.run(target, "-n", check=False)
    assert done.returncode
    assert message in done.stdout
    assert "Traceback (most recent call last)" not in done.stdout


def test_a_study_of_the_name_of_a_rule_is_refused(fresh):
    fresh.edit("tests/workflow/presets/adaptive.yaml", "tiny_adapters:", "tables:")
    done = fresh.run("-n", check=False)
    assert "adaptive 'tables': `snakemake tables` makes something else already" in done.stdout
