"""Tables and figures say what the results say, and nothing else."""

import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from drawn import check_fits, loaded, texts
from matplotlib.figure import Figure
from matplotlib.text import Text

from mergeloom.errors import MergeloomError
from mergeloom.report import corrupted, style
from mergeloom.report.alpha_curves import alpha_curves
from mergeloom.report.bars import bars
from mergeloom.report.calibration import calibration
from mergeloom.report.confusion import confusion
from mergeloom.report.diagnosis import diagnosis
from mergeloom.report.heatmap import heatmap
from mergeloom.report.learning_curves import learning_curves
from mergeloom.report.radar import radar
from mergeloom.report.singular_values import read_spectra, singular_values
from mergeloom.report.tables import markdown, read_csv, summary, write_csv
from mergeloom.report.wandb_log import log_summary

CAPTIONS = Path(__file__).parents[2] / "config" / "report"
PROVENANCE = {"mergeloom": json.dumps({"inputs": {"α.json": "0f" * 32}, "note": "<&>\n"})}
TASKS = ["digits", "house_numbers", "signs"]
MERGERS = ["weight_average", "task_arithmetic", "tsv"]


def accuracies(values: np.ndarray, best: np.ndarray, tasks: list[str]) -> dict[str, Any]:
    normalized = values / best
    return {
        "tasks": {
            task: {"accuracy": float(a), "loss": 0.5, "normalized_accuracy": float(b), "n": 400}
            for task, a, b in zip(tasks, values, normalized, strict=True)
        },
        "average": {
            "accuracy": float(values.mean()),
            "loss": 0.5,
            "normalized_accuracy": float(normalized.mean()),
        },
    }


def study(
    tasks: list[str] = TASKS, mergers: list[str] = MERGERS, searched: bool = True
) -> list[dict[str, Any]]:
    """Results as the workflow writes them; every second merger's alpha is searched."""
    random = np.random.default_rng(len(tasks))
    best = random.uniform(0.9, 0.99, len(tasks))
    results = []
    for index, name in enumerate(["zeroshot", *mergers, "finetuned"]):
        values = best if name == "finetuned" else random.uniform(0.2, 0.85, len(tasks))
        alpha: dict[str, Any] | None = {"value": 0.5, "how": "fixed"}
        if name == "finetuned":
            alpha = None
        elif searched and index % 2 == 0 and name != "zeroshot":
            curve = [
                {"alpha": a, **accuracies(values * (1 - abs(a - 0.5)), best, tasks)}
                for a in (0.25, 0.5, 0.75)
            ]
            points = [{**p, **p.pop("average")} for p in curve]
            alpha = {"value": 0.5, "how": "search", "split": "val", "curve": points}
        results.append(
            {
                "schema": "mergeloom/result/1",
                "encoder": "ViT-Nano",
                "experts": "finetuned",
                "benchmark": "demo",
                "merger": {
                    "name": name,
                    "method": name,
                    "parameters": {},
                    "modifiers": [],
                    "per_task": name in ("tall", "finetuned"),
                },
                "alpha": alpha,
                **accuracies(values, best, tasks),
                "validation": accuracies(values * 0.98, best, tasks),
                "provenance": {},
            }
        )
    return results


def spectra(tasks: list[str], length: int = 16) -> dict[str, dict[str, np.ndarray]]:
    keys = [f"visual.transformer.resblocks.{i}.mlp.c_fc.weight" for i in range(2)]
    decays = np.linspace(0.1, 0.5, len(tasks))
    steps = np.arange(length)
    return {
        task: {key: 3 * np.exp(-decay * steps) for key in [*keys, "visual.proj"]}
        for task, decay in zip(tasks, decays, strict=True)
    }


def history(epochs: int = 3) -> pd.DataFrame:
    epoch = np.arange(epochs + 1)
    rising = 0.9 - 0.6 * np.exp(-epoch.astype(float))
    frame = pd.DataFrame({"epoch": epoch, "step": epoch * 10, "lr": 1e-4})
    frame["val_accuracy"], frame["val_loss"] = rising, 1 - rising
    frame["train_accuracy"], frame["train_loss"] = rising + 0.05, 0.9 - rising
    frame.loc[0, ["train_accuracy", "train_loss"]] = np.nan
    return frame


def diagnosed(tasks: list[str], models: int = 1, zero: bool = False) -> dict[str, Any]:
    """A diagnosis as the workflow writes it, of three blocks and a projection behind them."""
    random = np.random.default_rng(len(tasks))
    count = len(tasks)

    def several(number: int, low: float, high: float, there: bool = True) -> list[float | None]:
        return list(random.uniform(low, high, number)) if there else [None] * number

    def elements() -> dict[str, Any]:
        return {
            "cosine_with_merged": several(count, 0.3, 0.6, not zero),
            "sign_agreement": several(count, 0.5, 0.7, not zero),
            "sign_opposition": several(count, 0.1, 0.2, not zero),
            "sign_unanimity": 0.125,
        }

    def matrix(key: str, block: int | None) -> dict[str, Any]:
        return {
            "kind": re.sub(r"\d+", "{}", key),
            "block": block,
            "shape": [100, 20],
            "sti": 8.0,
            "sti_normalized": 2.0 + (block or 0),
            "sar": several(count, 0.5, 0.9, not zero),
            "sar_rank": [None if zero else 16] * models,
            "effective_rank": several(count, 4, 8),
            "stable_rank": several(count, 2, 3),
            "merged_effective_rank": several(models, 10, 12, not zero),
            "merged_stable_rank": several(models, 2, 3, not zero),
            **elements(),
        }

    names = ("attn.in_proj_weight", "mlp.c_fc.weight")
    keys = {f"visual.transformer.resblocks.{i}.{name}": i for i in range(3) for name in names}
    matrices = {key: matrix(key, block) for key, block in {**keys, "visual.proj": None}.items()}
    cosine = np.full((count, count), 0.1) + 0.9 * np.eye(count)
    return {
        "schema": "mergeloom/diagnosis/1",
        "encoder": "ViT-Nano",
        "experts": "finetuned",
        "benchmark": "demo",
        "merger": "zeroshot" if zero else "tsv",
        "tasks": tasks,
        "per_task": models > 1,
        "model": {"cosine": cosine.tolist(), **elements()},
        "average": matrix("average", None),
        "kinds": {},
        "matrices": matrices,
        "provenance": {},
    }


def figures(tasks: list[str], mergers: list[str], searched: bool = True) -> dict[str, Figure]:
    results = study(tasks, mergers, searched)
    frame = summary(results)
    cosine = np.full((len(tasks), len(tasks)), 0.1) + 0.9 * np.eye(len(tasks))
    classes = {task: (10, 47, 397)[index % 3] for index, task in enumerate(tasks)}
    return {
        "radar": radar(frame, "demo"),
        "bars": bars(frame, "demo"),
        "heatmap": heatmap(cosine, tasks, "demo"),
        "alpha_curves": alpha_curves(results, subject="demo"),
        "singular_values": singular_values(spectra(tasks), "demo"),
        "learning_curves": learning_curves(dict.fromkeys(tasks, history()), "demo"),
        "diagnosis": diagnosis(diagnosed(tasks)),
        "confusion": confusion(inspected(classes)),
        "calibration": calibration(inspected(classes)),
    }


# Tables


def test_the_summary_holds_the_numbers_of_the_results():
    results = study()
    frame = summary(results).set_index("merger")
    for result in results:
        row = frame.loc[result["merger"]["name"]]
        assert row["accuracy"] == result["average"]["accuracy"]
        assert row["normalized_accuracy"] == result["average"]["normalized_accuracy"]
        for task, measured in result["tasks"].items():
            assert row[task] == measured["accuracy"]
            assert row[f"{task}_normalized"] == measured["normalized_accuracy"]
    assert frame.loc["task_arithmetic", "alpha"] == 0.5
    assert list(frame["alpha_how"]) == ["fixed", "fixed", "search", "fixed", ""]
    assert np.isnan(frame.loc["finetuned", "alpha"])


def test_the_summary_keeps_the_order_of_mergers_between_zero_shot_and_fine_tuned():
    results = study()
    frame = summary([results[4], results[3], results[0], results[1], results[2]])
    assert list(frame["merger"]) == [
        "zeroshot", "tsv", "weight_average", "task_arithmetic", "finetuned",
    ]  # fmt: skip


def test_the_task_columns_follow_the_order_asked_for():
    frame = summary(study(), tasks=["signs", "digits", "house_numbers"])
    assert list(frame.columns) == [
        "merger", "per_task", "alpha", "alpha_how", "accuracy", "normalized_accuracy",
        "signs", "signs_normalized", "digits", "digits_normalized",
        "house_numbers", "house_numbers_normalized",
    ]  # fmt: skip


def test_a_summary_read_back_from_csv_is_the_same_to_six_decimals(tmp_path):
    frame = summary(study())
    write_csv(tmp_path / "summary.csv", frame)
    again = read_csv(tmp_path / "summary.csv")
    pd.testing.assert_frame_equal(again, frame, rtol=0, atol=5e-7, check_dtype=False)
    first = (tmp_path / "summary.csv").read_bytes()
    write_csv(tmp_path / "summary.csv", frame)
    assert (tmp_path / "summary.csv").read_bytes() == first
    assert b"finetuned,True,,," in first
    assert b"\r" not in first


def test_markdown_says_percent_and_marks_the_best_merger_of_each_column():
    results = study()
    lines = markdown(summary(results)).splitlines()
    assert lines[0] == "| merger | α | average | digits | house_numbers | signs |"
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| zeroshot", "| weight_average", "| task_arithmetic", "| tsv", "| finetuned",
    ]  # fmt: skip
    best = max(results[1:4], key=lambda result: result["tasks"]["signs"]["accuracy"])
    measured = best["tasks"]["signs"]
    cell = f"**{100 * measured['accuracy']:.1f} ({100 * measured['normalized_accuracy']:.1f})**"
    (line,) = [line for line in lines if line.startswith(f"| {best['merger']['name']} ")]
    assert line.endswith(f"| {cell} |")
    assert "**" not in lines[2] + lines[-1]


def test_markdown_marks_models_that_are_told_their_task_and_lets_them_not_compete():
    results = study(mergers=["weight_average", "tall"])
    told = next(result for result in results if result["merger"]["name"] == "tall")
    for score in [told["average"], *told["tasks"].values()]:
        score["accuracy"] = 0.99
    lines = markdown(summary(results)).splitlines()
    assert lines[4].startswith("| tall \\* | 0.5 | 99.0 (")
    assert lines[3].count("**") == 2 * 4
    assert lines[-1] == "\\* one model per task, which is told its task"


def of_another_benchmark(results):
    results[2]["benchmark"] = "N8"


def without_a_task(results):
    del results[2]["tasks"]["signs"]


def given_twice(results):
    results.append(results[2])


def on_other_test_images(results):
    results[2]["tasks"]["signs"]["n"] = 100


def without_average(results):
    del results[2]["average"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (of_another_benchmark, ["N8", "demo", "task_arithmetic.json"]),
        (without_a_task, ["missing: signs", "task_arithmetic.json"]),
        (given_twice, ["twice", "task_arithmetic.json"]),
        (on_other_test_images, ["100", "400", "signs", "task_arithmetic.json"]),
        (without_average, ["average", "ViT-Nano/finetuned/demo"]),
        (list.clear, ["No result"]),
    ],
)
@pytest.mark.parametrize("consumer", [summary, alpha_curves])
def test_results_that_do_not_belong_together_are_one_clear_error(spoil, words, consumer):
    results = study()
    spoil(results)
    with pytest.raises(MergeloomError) as error:
        consumer(results)
    for word in words:
        assert word in str(error.value)


def test_a_task_of_the_benchmark_that_no_result_has_is_an_error():
    with pytest.raises(MergeloomError, match="missing: letters"):
        summary(study(), tasks=[*TASKS, "letters"])


# What the figures show


def test_the_radar_draws_the_normalized_accuracies_and_names_every_task():
    frame = summary(study()).set_index("merger")
    fig = radar(frame.reset_index())
    assert set(TASKS) <= set(texts(fig))
    outlines = {line.get_label().split("\n")[0]: line for line in fig.axes[0].lines}
    for merger in ["zeroshot", *MERGERS]:
        drawn = outlines[style.label(merger)].get_ydata()
        expected = frame.loc[merger, [f"{task}_normalized" for task in TASKS]].to_list()
        np.testing.assert_array_equal(drawn, [*expected, expected[0]])
    np.testing.assert_array_equal(np.unique(outlines["fine-tuned"].get_ydata()), [1.0])


def test_many_mergers_get_a_radar_each():
    mergers = [f"merger_{index}" for index in range(12)]
    frame = summary(study(mergers=mergers))
    fig = radar(frame)
    assert [axes.get_title().split("   ")[0] for axes in fig.axes] == [
        style.label(merger) for merger in mergers
    ]
    for axes, merger in zip(fig.axes, mergers, strict=True):
        row = frame.set_index("merger").loc[merger, [f"{task}_normalized" for task in TASKS]]
        own = [line for line in axes.lines if line.get_color() == style.series(0)["color"]]
        np.testing.assert_array_equal(own[0].get_ydata()[:-1], row.to_list())


def test_the_bars_are_as_long_as_the_averages_in_the_order_of_the_table():
    frame = summary(study()).set_index("merger")
    fig = bars(frame.reset_index())
    for axes, column in zip(fig.axes, ["accuracy", "normalized_accuracy"], strict=True):
        lengths = [bar.get_width() for bar in axes.patches]
        assert lengths == frame.loc[MERGERS, column].to_list()
        lines = {line.get_label(): line.get_xdata()[0] for line in axes.lines}
        assert lines == {
            "zero-shot": frame.loc["zeroshot", column],
            "fine-tuned": frame.loc["finetuned", column],
        }
        assert f"{100 * frame.loc['tsv', column]:.1f}" in texts(fig)
    names = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    assert names == [f"{style.label(merger)}  (α = 0.5)" for merger in MERGERS]
    assert fig.axes[0].get_ylim()[0] > fig.axes[0].get_ylim()[1]


def test_the_heatmap_writes_every_similarity_and_colours_those_off_the_diagonal():
    matrix = np.array([[1, 0.25, -0.5], [0.25, 1, -0.001], [-0.5, -0.001, 1]])
    fig = heatmap(matrix, TASKS)
    cells = [text.get_text() for text in fig.axes[0].texts]
    assert cells == ["1", ".25", "−.50", ".25", "1", ".00", "−.50", ".00", "1"]
    mesh = fig.axes[0].collections[0]
    assert mesh.get_clim() == (-0.5, 0.5)
    assert mesh.get_array().mask.ravel().tolist() == np.eye(3, dtype=bool).ravel().tolist()
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == TASKS


def test_the_heatmap_of_similar_tasks_rises_from_zero():
    fig = heatmap(np.array([[1, 0.3], [0.3, 1]]), TASKS[:2])
    assert fig.axes[0].collections[0].get_clim() == (0, 0.3)


@pytest.mark.parametrize("matrix", [np.eye(2), np.full((3, 3), np.nan)])
def test_a_matrix_that_does_not_fit_the_tasks_is_an_error(matrix):
    with pytest.raises(MergeloomError, match="digits, house_numbers, signs"):
        heatmap(matrix, TASKS)


def test_the_alpha_curves_mark_the_alpha_that_was_chosen():
    results = study()
    fig = alpha_curves(results)
    panels = {axes.get_title("left").split(" (")[0]: axes for axes in fig.findobj(_is_panel)}
    assert set(panels) == {"average over tasks", *TASKS}
    curve = results[2]["alpha"]["curve"]
    for title, axes in panels.items():
        (line,) = [x for x in axes.lines if x.get_label() == "task arithmetic: α = 0.5"]
        values = [
            (point if title.startswith("average") else point["tasks"][title])["normalized_accuracy"]
            for point in curve
        ]
        np.testing.assert_array_equal(line.get_xdata(), [0.25, 0.5, 0.75])
        np.testing.assert_array_equal(line.get_ydata(), values)
        assert line.get_markevery() == [1]
        assert line.get_markerfacecolor() != "white"
        (point,) = [x for x in axes.lines if x.get_label() == "tsv: α = 0.5 (fixed)"]
        measured = results[3]["validation"]
        expected = measured["average"] if title.startswith("average") else measured["tasks"][title]
        assert list(point.get_ydata()) == [expected["normalized_accuracy"]]


def test_many_mergers_get_a_panel_each_with_the_average_and_the_tasks():
    names = [f"merger{i}" for i in range(12)]
    results = study(mergers=names)
    searched = {r["merger"]["name"]: r for r in results if r["alpha"] and "curve" in r["alpha"]}
    assert 0 < len(searched) < len(names)
    panels = {
        axes.get_title("left").split(",")[0]: axes
        for axes in alpha_curves(results).findobj(_is_panel)
        if axes.get_visible()
    }
    assert set(panels) == set(searched)
    for name, axes in panels.items():
        curve = searched[name]["alpha"]["curve"]
        assert len(axes.lines) == len(TASKS) + 3  # the tasks, zero-shot, fine-tuned, the average
        average = axes.lines[-1]
        assert list(average.get_xdata()) == [point["alpha"] for point in curve]
        assert list(average.get_ydata()) == [point["normalized_accuracy"] for point in curve]
        assert average.get_markevery() == [1]


def test_bars_do_not_let_models_that_are_told_their_task_compete():
    results = study(mergers=["weight_average", "tall"])
    told = next(result for result in results if result["merger"]["name"] == "tall")
    told["average"] |= {"accuracy": 0.99, "normalized_accuracy": 0.99}
    fig = bars(summary(results))
    bold = {text.get_text() for text in fig.findobj(Text) if text.get_fontweight() == "bold"}
    assert "99.0" not in bold
    expected = results[1]["average"]["accuracy"]
    assert f"{100 * expected:.1f}" in bold


def test_an_alpha_at_the_edge_of_its_grid_is_drawn_hollow_and_said():
    results = study()
    results[2]["alpha"]["value"] = 0.75
    fig = alpha_curves(results)
    (line,) = [
        line
        for line in fig.findobj(_is_panel)[0].lines
        if line.get_label() == "task arithmetic: α = 0.75 (edge of grid)"
    ]
    assert line.get_markerfacecolor() == "white"


def _is_panel(artist: Any) -> bool:
    return hasattr(artist, "get_xaxis") and artist.get_visible()


def test_singular_values_are_means_over_blocks_relative_to_the_largest():
    given = spectra(["a", "b"], length=8)
    one = "visual.transformer.resblocks.1.mlp.c_fc.weight"
    given["a"][one] = np.linspace(2, 1, 8)
    fig = singular_values(given)
    panels = {axes.get_title("left"): axes for axes in fig.axes}
    assert set(panels) == {"mlp.c_fc, mean of 2", "proj"}
    lines = {line.get_label(): line for line in panels["mlp.c_fc, mean of 2"].lines}
    expected = (np.exp(-0.1 * np.arange(8)) + np.linspace(2, 1, 8) / 2) / 2
    np.testing.assert_allclose(lines["a"].get_ydata(), expected)
    assert panels["proj"].get_yscale() == "log"


def test_the_rank_that_tsv_keeps_and_its_share_of_the_norm_are_marked():
    given = {task: {"visual.proj": np.array([3.0, 1, 1, 1])} for task in ("a", "b")}
    fig = singular_values(given)
    assert fig.axes[0].lines[-1].get_xdata()[0] == 2
    assert "TSV-M keeps 2 of 4:\n83% of ‖Δ‖²" in texts(fig)


def test_more_tasks_than_singular_values_is_said():
    fig = singular_values({task: {"visual.proj": np.array([2.0, 1])} for task in TASKS})
    assert "2 are fewer than 3 tasks:\nTSV-M takes the mean" in texts(fig)


def test_spectra_of_different_encoders_do_not_mix():
    given = {"a": {"visual.proj": np.ones(4)}, "b": {"visual.proj": np.ones(8)}}
    with pytest.raises(MergeloomError, match=re.escape("visual.proj has 8 singular values")):
        singular_values(given)


def test_spectra_are_read_without_their_vectors_and_without_zeros(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "svd.safetensors"
    values = np.array([2, 1], dtype=np.float32)
    save_file({"k.S": values, "k.U": np.ones((3, 1)), "frozen.S": np.zeros(2)}, path)
    read = read_spectra(path)
    assert list(read) == ["k"]
    np.testing.assert_array_equal(read["k"], values)
    save_file({"k.U": np.ones((3, 1))}, path)
    with pytest.raises(MergeloomError, match="no singular values"):
        read_spectra(path)
    path.write_bytes(b"\x80\x04")
    with pytest.raises(MergeloomError, match=r"svd\.safetensors: not readable"):
        read_spectra(path)


def test_learning_curves_draw_what_is_known_of_every_task():
    given = {task: history() for task in TASKS}
    fig = learning_curves(given)
    titles = [axes.get_title("left") for axes in fig.axes if axes.get_title("left")]
    assert titles == TASKS
    accuracy = next(axes for axes in fig.axes if axes.get_title("left") == "digits")
    train, val = accuracy.lines
    np.testing.assert_array_equal(train.get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(val.get_xdata(), [0, 1, 2, 3])
    np.testing.assert_array_equal(val.get_ydata(), given["digits"]["val_accuracy"])
    assert f"{100 * given['digits']['val_accuracy'].iloc[-1]:.1f}%" in texts(fig)


def test_a_training_history_without_a_column_is_an_error():
    with pytest.raises(MergeloomError, match=r"signs.*\n?.*missing: val_loss"):
        learning_curves({"digits": history(), "signs": history().drop(columns="val_loss")})
    with pytest.raises(MergeloomError, match="missing: rows"):
        learning_curves({"digits": history().iloc[:0]})


def test_a_diagnosis_shows_each_task_and_each_kind_of_matrix():
    given = diagnosed(TASKS)
    fig = diagnosis(given)
    assert "What tsv does to its tasks" in "".join(texts(fig))
    panels = {axes.get_title("left"): axes for axes in fig.findobj(_is_panel)}
    widths = [bar.get_width() for bar in panels["Alignment (SAR)"].patches]
    np.testing.assert_allclose(widths, given["average"]["sar"])
    assert [label.get_text() for label in panels["Alignment (SAR)"].get_yticklabels()] == TASKS
    assert panels["Alignment (SAR)"].lines[0].get_xdata()[0] == pytest.approx(0.4)  # √(16 / 100)
    spans = [
        (bar.get_x(), bar.get_width()) for bar in panels["Signs of the merged weights"].patches
    ]
    same, opposite = (given["model"][f"sign_{name}"] for name in ("agreement", "opposition"))
    np.testing.assert_allclose([width for _, width in spans[:3]], same)
    np.testing.assert_allclose([start for start, _ in spans[3:6]], same)
    np.testing.assert_allclose(
        [start + width for start, width in spans[3:6]], 1 - np.array(opposite)
    )
    np.testing.assert_allclose([width for _, width in spans[6:]], opposite)
    assert any(text.startswith("all 3 tasks agree on 12%") for text in texts(fig))
    assert "(random signs: 25%)" in "\n".join(texts(fig))
    interference = {
        line.get_label(): line for line in panels["Interference of the tasks (STI / Σσ)"].lines
    }
    np.testing.assert_array_equal(interference["mlp.c_fc"].get_xdata(), [0, 1, 2])
    np.testing.assert_array_equal(interference["mlp.c_fc"].get_ydata(), [2, 3, 4])
    assert list(interference["proj"].get_ydata()) == [2]
    entries = [
        given["matrices"][f"visual.transformer.resblocks.{i}.mlp.c_fc.weight"] for i in range(3)
    ]
    ranks, merged = panels["mlp.c_fc, at most 20"].lines
    np.testing.assert_allclose(ranks.get_ydata(), [np.mean(e["effective_rank"]) for e in entries])
    np.testing.assert_allclose(merged.get_ydata(), [e["merged_effective_rank"][0] for e in entries])


def test_the_cosines_of_a_diagnosis_end_with_those_of_the_merged_model():
    given = diagnosed(TASKS)
    (axes,) = [
        axes
        for axes in diagnosis(given).findobj(_is_panel)
        if axes.get_title("left").startswith("Cosine")
    ]
    values = axes.collections[0].get_array().reshape(3, 5)
    np.testing.assert_allclose(values[:, 4], given["model"]["cosine_with_merged"])
    assert values[0, 1] == values[2, 0] == 0.1
    assert values.mask[[0, 1, 2], [0, 1, 2]].all()
    assert values.mask[:, 3].all()
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == [*TASKS, "merged"]


def test_a_diagnosis_of_a_merge_that_changes_nothing_says_so():
    found = texts(diagnosis(diagnosed(TASKS, zero=True)))
    assert "What zero-shot does to its tasks" in "".join(found)
    assert found.count("the merged task vector is zero") == 2
    assert found.count("–") == 6  # alignment and cosine of three tasks


def test_a_diagnosis_of_one_model_per_task_says_so():
    found = texts(diagnosis(diagnosed(TASKS, models=3)))
    assert "own model" in found
    assert any("along its own model's" in text for text in found)
    assert "merged" not in found


def test_a_diagnosis_of_other_tasks_than_it_names_is_an_error():
    with pytest.raises(MergeloomError, match="tsv has 3 values of sar for 2 tasks"):
        diagnosis(diagnosed(TASKS) | {"tasks": TASKS[:2]})


# Every figure

TABLES = ["summary", "corrupted"]
CONDITIONS = [
    "accuracy", "alpha_curves", "log_trace_accuracy", "log_trace_training", "mergers", "summary",
]  # fmt: skip
ADAPTIVE = [
    "summary", "cost_table", "cost", "curves", "coefficients", "layers", "corrupted",
    "corrupted_table",
]  # fmt: skip
FIGURES = [
    "radar", "bars", "heatmap", "alpha_curves", "singular_values", "learning_curves", "diagnosis",
    "confusion", "calibration",
]  # fmt: skip


@pytest.mark.parametrize(
    ("count", "mergers", "searched"),
    [(1, 1, False), (2, 3, True), (8, 1, True), (20, 12, True)],
)
def test_figures_fit_their_canvas_whatever_the_number_of_tasks_and_mergers(
    count, mergers, searched
):
    tasks = [f"a_long_task_{index}" for index in range(count)]
    names = [f"merger_{index}" for index in range(mergers)]
    for name, fig in figures(tasks, names, searched).items():
        check_fits(fig, name)


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_a_figure_drawn_twice_has_the_same_bytes_and_carries_its_provenance(suffix, tmp_path):
    for turn in ("one", "two"):
        for name, fig in figures(TASKS, MERGERS).items():
            style.save(fig, tmp_path / turn / f"{name}{suffix}", PROVENANCE)
    for name in FIGURES:
        one, two = (tmp_path / turn / f"{name}{suffix}" for turn in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
        assert style.read_metadata(one) == PROVENANCE
    assert len(list(tmp_path.rglob("*"))) == 2 + 2 * len(FIGURES)


def test_a_subject_that_is_too_long_is_written_smaller_and_not_cut_off():
    sizes = {}
    for subject in ("demo", "a_long_name_of_an_encoder, a_benchmark, a_sweep: " * 2):
        with style.figure(6.5, 3, "Heading", subject) as fig:
            text = fig.texts[-1]
            assert text.get_window_extent().x1 < fig.bbox.width
        sizes[subject] = text.get_fontsize()
    short, long = sizes.values()
    assert short == 9.5 > long


def test_positions_are_rounded_because_the_layout_solver_varies_in_the_last_bit():
    for fig in figures(TASKS, MERGERS).values():
        for axes in fig.axes:
            bounds = axes.get_position(original=True).bounds
            np.testing.assert_allclose(bounds, np.round(bounds, 6), rtol=0, atol=1e-15)


def test_figures_do_not_depend_on_the_users_matplotlib_settings(tmp_path):
    import matplotlib as mpl

    frame = summary(study())
    style.save(bars(frame), tmp_path / "plain.svg")
    with mpl.rc_context({"font.size": 20, "svg.fonttype": "path", "svg.hashsalt": "other"}):
        style.save(bars(frame), tmp_path / "changed.svg")
    assert (tmp_path / "plain.svg").read_bytes() == (tmp_path / "changed.svg").read_bytes()


def test_svg_text_is_text_and_the_file_names_no_date(tmp_path):
    style.save(bars(summary(study())), tmp_path / "bars.svg")
    root = ElementTree.parse(tmp_path / "bars.svg").getroot()
    words = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "Average accuracy of the merged models" in words
    assert "date" not in {node.tag.rsplit("}")[-1] for node in root.iter()}
    assert style.read_metadata(tmp_path / "bars.svg") == {}


def test_a_suffix_that_is_no_figure_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(MergeloomError, match=r"\.pdf"):
        style.save(bars(summary(study())), tmp_path / "bars.pdf")
    assert not list(tmp_path.iterdir())
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(MergeloomError, match=r"broken\.png"):
        style.read_metadata(tmp_path / "broken.png")


def test_small_multiples_leave_no_ragged_end_where_they_need_not():
    assert style.grid(8, 5) == (2, 4)
    assert style.grid(20, 5) == (4, 5)
    assert style.grid(14, 5) == (3, 5)
    assert style.grid(1, 5) == (1, 1)


def test_drawing_needs_neither_torch_nor_pyplot():
    modules = (
        "alpha_curves bars diagnosis heatmap learning_curves radar singular_values tables wandb_log"
    )
    names = [f"mergeloom.report.{name}" for name in modules.split()]
    heavy = {"torch", "wandb", "matplotlib.pyplot"}
    assert not loaded(["mergeloom.evaluation.diagnosis", *names], heavy)


# Captions


@pytest.mark.parametrize("caption", sorted(CAPTIONS.glob("*.rst")), ids=lambda path: path.stem)
def test_captions_render_with_the_wildcards_of_their_rule(caption):
    jinja2 = pytest.importorskip("jinja2")
    core = pytest.importorskip("docutils.core")
    wildcards = {"encoder": "ViT-Nano", "experts": "finetuned", "benchmark": "demo8"}
    wildcards |= {"merger": "tsv", "sweep": "polito", "study": "adaptive_demo"}
    template = jinja2.Template(caption.read_text(), undefined=jinja2.StrictUndefined)
    text = template.render(snakemake=SimpleNamespace(wildcards=SimpleNamespace(**wildcards)))
    html = core.publish_parts(text, writer="html5", settings_overrides={"halt_level": 2})["body"]
    if caption.stem != "workflow":
        assert "ViT-Nano" in html


def test_every_figure_has_a_caption():
    of_conditions = {f"conditions_{name}" for name in CONDITIONS}
    captions = {path.stem for path in CAPTIONS.glob("*.rst")}
    of_adapters = {f"adaptive_{name}" for name in ADAPTIVE}
    assert captions == {*FIGURES, *TABLES, *of_conditions, *of_adapters, "workflow"}


# Weights & Biases


def test_wandb_logs_metrics_image_table_and_the_csv_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    start, seen = wandb.init, {}
    monkeypatch.setattr(wandb, "init", lambda **given: seen.update(os.environ) or start(**given))
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    frame = summary(study())
    chart = tmp_path / "radar.png"
    style.save(radar(frame), chart)
    log_summary(frame, chart, "offline", "mergeloom", "ViT-Nano demo", tmp_path, {"seed": 0})
    assert seen["WANDB_ERROR_REPORTING"] == "false"  # else its service opens a connection
    assert not {"WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_ERROR_REPORTING"} & set(os.environ)
    (record,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    held = record.read_bytes()
    for words in (
        b"tsv/normalized_accuracy",
        b"tsv/tasks/signs",
        b"ViT-Nano-demo-summary",
        b"seed",
    ):
        assert words in held
    (run,) = tmp_path.glob("wandb/offline-run-*")
    (image,) = run.glob("files/media/images/radar*.png")
    assert image.read_bytes() == chart.read_bytes()
    (table,) = run.glob("files/media/table/summary*.json")
    assert json.loads(table.read_text())["columns"] == list(frame.columns)
    write_csv(tmp_path / "summary.csv", frame)
    staged = [path.read_bytes() for path in tmp_path.glob("wandb/artifacts/staging/*")]
    assert (tmp_path / "summary.csv").read_bytes() in staged


def test_wandb_asks_for_a_known_mode_the_chart_and_the_package(tmp_path, monkeypatch):
    frame, chart = summary(study()), tmp_path / "radar.png"
    with pytest.raises(MergeloomError, match="disabled"):
        log_summary(frame, chart, "disabled", "p", "n", tmp_path, {})
    with pytest.raises(MergeloomError, match=r"radar\.png: missing"):
        log_summary(frame, chart, "offline", "p", "n", tmp_path, {})
    style.save(radar(frame), chart)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MergeloomError, match="pip install wandb"):
        log_summary(frame, chart, "offline", "p", "n", tmp_path, {})


def with_metrics(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for index, result in enumerate(results):
        for scores in (*result["tasks"].values(), result["average"]):
            scores |= {"top5": 0.9 - index / 100, "ece": 0.1 + index / 100}
    return results


def test_metrics_on_request_are_columns_after_those_that_are_always_there():
    plain, asked = summary(study()), summary(with_metrics(study()))
    assert list(asked.columns[: len(plain.columns)]) == list(plain.columns)
    assert list(asked.columns[len(plain.columns) :]) == [
        "top5", *(f"{task}_top5" for task in TASKS), "ece", *(f"{task}_ece" for task in TASKS)
    ]  # fmt: skip
    assert asked["ece"].tolist() == pytest.approx([0.1, 0.11, 0.12, 0.13, 0.14])
    assert markdown(asked) == markdown(plain), "the table for people stays narrow"


def inspected(classes: dict[str, int]) -> dict[str, Any]:
    """What an inspection holds: a fifth of the images of each class is taken for the next one."""
    tasks = {}
    for task, count in classes.items():
        confusion = 8 * np.eye(count, dtype=int) + 2 * np.roll(np.eye(count, dtype=int), 1, axis=1)
        n = 10 * count
        bins = {"count": [0] * 14 + [n], "correct": [0] * 14 + [8 * count]}
        tasks[task] = {
            "classnames": [f"{task} class {i}" for i in range(count)],
            "confusion": confusion.tolist(),
            "reliability": bins | {"confidence": [0.0] * 14 + [0.95 * n]},
            "accuracy": 0.8,
            "mean_class_recall": 0.8,
            "ece": 0.15,
        }
    return {"merger": "tsv", "encoder": "E", "experts": "x", "benchmark": "B", "tasks": tasks}


def test_confusion_panels_show_shares_of_rows_and_name_the_worst():
    figure = confusion(inspected({"digits": 10, "sun": 397}))
    digits, sun = (axes for axes in figure.axes if axes.images)
    shown = np.asarray(digits.images[0].get_array())
    np.testing.assert_allclose(shown.sum(axis=1), 1)
    np.testing.assert_allclose(shown.diagonal(), 0.8)
    assert [label.get_text() for label in digits.get_yticklabels()][3] == "digits class 3"
    blocks = np.asarray(sun.images[0].get_array())
    assert blocks.shape == (100, 100), "397 classes in blocks of four"
    np.testing.assert_allclose(blocks.diagonal(), 0.8)
    assert "397 classes, 4×4 in a cell" in sun.get_xlabel()
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert any("80.0% right\ndigits class 0 → digits class 1: 20%" in text for text in texts)


def test_calibration_bars_end_at_accuracy_and_at_confidence():
    figure = calibration(inspected({"digits": 10, "signs": 4, "sun": 397}))
    panel = figure.axes[0]
    right, gap = (container.patches for container in panel.containers)
    assert [round(patch.get_height(), 6) for patch in right] == [0.8]
    assert gap[0].get_y() == pytest.approx(0.8)
    assert gap[0].get_height() == pytest.approx(0.15)
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert texts.count("ECE 15.0%, 80.0% right") == 3


def on_corrupted(results: list[dict[str, Any]], corruption: str) -> list[dict[str, Any]]:
    on = {"corruption": corruption, "severity": 2}
    for result in results:
        result["evaluated_on"] = on
        result["average"]["accuracy"] /= 2
    return results


def test_the_table_of_corruptions_has_clean_images_first_and_the_mean_last():
    results = [*study(), *on_corrupted(study(), "contrast"), *on_corrupted(study(), "spatter")]
    frame = corrupted.summary(results, TASKS)
    kinds = ["clean", "contrast2", "spatter2"]
    assert list(dict.fromkeys(frame["images"])) == kinds
    clean = summary(study()).set_index("merger")["accuracy"]
    lines = corrupted.markdown(frame).splitlines()
    assert lines[0] == "| merger | clean | contrast2 | spatter2 | mean of corrupted |"
    whole, half = (f"{100 * clean['tsv'] / part:.1f}" for part in (1, 2))
    assert f"| tsv | {whole} | {half} | {half} | {half} |" in lines
