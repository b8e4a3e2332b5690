"""Tables and figures of a study of adapters say what was measured, and nothing else."""

import json
from pathlib import Path

import adapters_study as made
import numpy as np
import pandas as pd
import pytest
from drawn import check_fits, check_same_bytes, loaded, text_of, texts
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as Drawn

from mergeloom.errors import MergeloomError
from mergeloom.io.jsonfile import read_json
from mergeloom.models.naming import naming
from mergeloom.report import style
from mergeloom.report.adaptive.coefficients import coefficients, hits, matrix
from mergeloom.report.adaptive.corrupted import corrupted, table
from mergeloom.report.adaptive.corrupted import markdown as markdown_of_corrupted
from mergeloom.report.adaptive.figures import draw
from mergeloom.report.adaptive.layers import by_depth, layers, stages, ticks_of
from mergeloom.report.adaptive.look import looks, spread
from mergeloom.report.adaptive.study import (
    label,
    read_coefficients,
    read_curve,
    read_models,
    scored_by,
)
from mergeloom.report.adaptive.tables import cost, read_summary, summary, tasks_of, tower_size
from mergeloom.report.adaptive.text import markdown
from mergeloom.report.markdown import WIDTH
from mergeloom.report.published import Figure
from mergeloom.report.tables import write_csv

CORRUPTIONS = ("motion_blur2", "jpeg_compression2")
CASES = {"demo": made.DEMO, "wide": made.wide(), "narrow": made.narrow()}


class Study:
    """A made-up study, read."""

    def __init__(self, folder: Path, of: made.Made) -> None:
        self.made, self.files = of, made.write(folder, of, CORRUPTIONS)
        self.models = read_models(self.files.mergers, self.files.adapters, of.tasks)
        self.frame = summary(self.models, of.tasks, [], made.TOWER)
        self.summary = folder / "summary.csv"
        write_csv(self.summary, self.frame)
        self.adapters = [read_json(path) for path in self.files.adapters]
        self.corrupted = table(map(read_json, self.files.corrupted), of.tasks, [])

    def row(self, model: str, source: str = "") -> pd.Series:
        frame = self.frame
        found = frame[(frame["model"] == model) & (frame["transferred_from"] == source)]
        assert len(found) == 1
        return found.iloc[0]

    def figures(self, subject: str = "demo") -> dict[str, Drawn]:
        files = self.files
        found = draw(
            str(self.summary), files.adapters, files.coefficients, files.curves,
            self.made.tasks, subject,
        )  # fmt: skip
        return {**found, "corrupted": corrupted(self.corrupted, subject)}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Study(tmp_path_factory.mktemp("study"), made.DEMO)


@pytest.fixture(scope="module")
def figures(study):
    return study.figures()


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """One of its adapters collapsed on a task, none on average."""
    return Study(tmp_path_factory.mktemp("wide"), made.wide())


# The summary


def test_rows_are_by_kind_and_within_one_in_the_order_of_the_preset(study):
    assert list(zip(study.frame["kind"], study.frame["model"], strict=True)) == [
        ("zeroshot", "zeroshot"),
        ("merger", "weight_average"),
        ("merger", "task_arithmetic"),
        ("merger", "tsv"),
        ("adapter", "dawe_task_wise"),
        ("adapter", "adamerging_layer_wise"),
        ("adapter", "smile"),
        ("transferred", "dawe_task_wise"),
        ("oracle", "task_classifier"),
        ("finetuned", "finetuned"),
    ]


def test_the_gain_is_the_accuracy_after_minus_that_before(study):
    row, result = study.row("dawe_task_wise"), study.adapters[0]
    before, after = result["before"]["average"]["accuracy"], result["average"]["accuracy"]
    assert (row["before"], row["accuracy"]) == (before, after)
    assert row["gain"] == pytest.approx(after - before)
    for task in study.made.tasks:
        assert row[f"{task}_before"] == result["before"]["tasks"][task]["accuracy"]
        assert row[task] == result["tasks"][task]["accuracy"]
        assert row[f"{task}_normalized"] == result["tasks"][task]["normalized_accuracy"]


def test_what_is_not_adapted_has_no_value_before_and_no_gain(study):
    for model in ("zeroshot", "tsv", "smile", "finetuned"):
        assert np.isnan(study.row(model)["before"])
        assert np.isnan(study.row(model)["gain"])
        assert study.row(model)["collapsed"] is None


def test_a_collapsed_adapter_is_marked_with_its_tasks(study):
    row = study.row("adamerging_layer_wise")
    assert row["collapsed"] is True
    assert row["collapsed_tasks"] == "signs"
    assert study.row("dawe_task_wise")["collapsed"] is False
    lines = markdown(study.frame, "demo", {}).splitlines()
    (line,) = [x for x in lines if x.startswith("| adamerging layer wise") and "batch" in x]
    assert "| average, signs |" in line
    assert "Collapsed: there entropy fell" in "\n".join(lines)


def test_a_model_that_collapsed_on_a_task_alone_did_not_collapse(wide):
    name = "adamerging_task_wise_number_5"
    row = wide.row(name)
    assert row["collapsed"] is False
    assert row["collapsed_tasks"] == "a_rather_long_task_3"
    (line, *_) = [x for x in markdown(wide.frame, "", {}).splitlines() if label(name) in x]
    assert "| a_rather_long_task_3 |" in line
    assert "Collapsed: there" in markdown(wide.frame, "", {})
    of_corrupted = markdown_of_corrupted(wide.corrupted, wide.made.tasks, "")
    assert "!" not in of_corrupted.split("\n\n", 2)[2], "below what the mark means"
    assert "a_rather_long_task_3" in of_corrupted
    drawn = wide.figures()
    (panel,) = [axes for axes in drawn["cost"].axes if axes.texts]
    colours = {text.get_text(): to_hex(text.get_color()) for text in panel.texts}
    assert style.WARNING.lower() not in colours.values()
    assert colours["(a_rather_long_task_3)"] == style.MUTED
    assert "(tasks): collapsed on these alone" in text_of(drawn["cost"])
    heads = {text.get_text(): to_hex(text.get_color())
             for axes in drawn["curves"].axes for text in axes.texts}  # fmt: skip
    assert "test inputs, 200 steps\ncollapsed: a_rather_long_task_3" in heads
    assert style.WARNING.lower() not in {c for text, c in heads.items() if text}
    lines = [line for axes in drawn["corrupted"].axes for line in axes.lines]
    assert style.WARNING.lower() not in {to_hex(line.get_color()) for line in lines}
    assert "collapsed" not in text_of(drawn["corrupted"])


def test_a_row_says_on_what_it_was_adapted_and_what_coefficients_are_of(study):
    row = study.row("dawe_task_wise")
    assert (row["adapted_on"], row["steps"], row["chosen"]) == ("test", 200, 200)
    assert (row["adaptation_granularity"], row["evaluation_granularity"]) == ("batch", "sample")
    assert "| test inputs | batch → sample |" in markdown(study.frame, "demo", {})
    assert "on the very inputs that the accuracy is of" in markdown(study.frame, "demo", {})


def test_a_merged_model_stores_one_tower_and_the_fine_tuned_ones_one_per_task(study):
    assert study.row("tsv")["stored_parameters"] == made.TOWER
    assert study.row("finetuned")["stored_parameters"] == 3 * made.TOWER
    assert study.row("tsv")["trainable_parameters"] == 0
    assert study.row("dawe_task_wise")["trainable_parameters"] == 4_000
    assert study.row("smile")["stored_parameters"] == 2 * made.TOWER


def test_the_tower_is_what_is_not_frozen_of_a_base(tmp_path):
    header = {
        "visual.proj": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "transformer.text": {"dtype": "F32", "shape": [5], "data_offsets": [24, 44]},
    }
    text = json.dumps(header).encode()
    path = tmp_path / "base.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(44))
    assert tower_size(str(path), naming("clip")) == 6
    assert tower_size(str(path), naming("generic")) == 11


def test_a_summary_read_back_is_the_same_to_six_decimals(study, tmp_path):
    write_csv(tmp_path / "summary.csv", study.frame)
    again = read_summary(tmp_path / "summary.csv")
    assert list(again["collapsed"]) == list(study.frame["collapsed"])
    pd.testing.assert_frame_equal(
        again.drop(columns=["collapsed", "stopped_early"]),
        study.frame.drop(columns=["collapsed", "stopped_early"]),
        rtol=0, atol=5e-7, check_dtype=False,
    )  # fmt: skip


def test_published_figures_stand_beside_the_same_adapter_of_the_same_source(study):
    def figure(method, accuracy, task="", images=""):
        return Figure(
            method, "ViT-Micro", "demo", "finetuned", task, accuracy, None, False, "a paper", images
        )

    published = [
        figure("dawe_task_wise", 0.883),
        figure("dawe_task_wise", 0.7, "signs"),
        figure("dawe_task_wise.from.ViT-Nano", 0.931),
        figure("dawe_task_wise", 0.365, images="pixelate2"),
        figure("smile", 0.1, images="pixelate2"),
    ]
    frame = summary(study.models, study.made.tasks, published, made.TOWER)
    known = frame[frame["published_accuracy"].notna()]
    assert list(known["published_accuracy"]) == [0.883, 0.931]
    assert list(known["transferred_from"]) == ["", "ViT-Nano"]
    assert list(known["signs_published"].dropna()) == [0.7]
    assert "- dawe task wise: a paper" in markdown(frame, "demo", {})


def test_metrics_of_text_and_how_tasks_are_scored_are_told(study):
    results = [json.loads(json.dumps(model.result)) for model in study.models]
    for result in results[1:]:
        result["tasks"]["signs"] |= {"valid_rate": 0.975, "label_accuracy": 0.5}
    results[-1]["scored_by"] = {"signs": "spearman"}
    models = [m._replace(result=r) for m, r in zip(study.models, results, strict=True)]
    frame = summary(models, study.made.tasks, [], made.TOWER)
    assert np.isnan(frame["signs_valid_rate"][0])
    assert frame["signs_valid_rate"][1] == 0.975
    assert "digits_valid_rate" not in frame
    text = markdown(frame, "demo", scored_by(models))
    assert "Scored otherwise than by accuracy: signs by Spearman's ρ." in text
    assert "valid-label rate" in text
    assert tasks_of(frame) == study.made.tasks


def test_the_best_of_a_column_is_bold_among_those_that_are_told_nothing(study):
    text = markdown(study.frame, "demo", {})
    lines = text.split("## Test accuracy by task")[1].split("## Normalised")[0].splitlines()
    (row,) = [line for line in lines if line.startswith("| smile")]
    best = 100 * study.row("smile")["accuracy"]
    assert f"**{best:.1f}**" in row
    assert not [line for line in lines if "**" in line and line.startswith("| fine-tuned")]
    assert not [line for line in lines if "**" in line and line.startswith("| task classifier")]


@pytest.mark.parametrize("name", CASES)
def test_the_tables_fit_a_terminal(name, tmp_path):
    case = Study(tmp_path, CASES[name])
    text = markdown(case.frame, "demo", {})
    text += markdown_of_corrupted(case.corrupted, case.made.tasks, "demo")
    assert max(len(line) for line in text.splitlines() if line.startswith("|")) <= WIDTH


# Costs


def times_of(study):
    return [
        read_json(adaptation) | read_json(evaluation)
        for adaptation, evaluation in zip(
            study.files.times_of_adaptation, study.files.times, strict=True
        )
    ]


def test_times_come_from_the_files_of_times_alone(study):
    times = times_of(study)
    found = cost(study.frame, study.adapters, times)
    assert list(found["model"]) == list(study.frame["model"])
    by_name = {(r["model"], r["transferred_from"]): r for r in found.to_dict("records")}
    assert by_name["dawe_task_wise", ""]["adaptation_seconds"] == 12.5
    assert by_name["dawe_task_wise", "ViT-Nano"]["adaptation_seconds"] == 16.5
    assert by_name["dawe_task_wise", "ViT-Nano"]["examples_per_second"] == 1004
    assert np.isnan(by_name["smile", ""]["adaptation_seconds"])
    assert np.isnan(by_name["tsv", ""]["evaluation_seconds"])
    assert not [column for column in study.frame if "second" in column]
    assert "second" not in markdown(study.frame, "demo", {})
    assert "second" not in text_of(study.figures()["cost"])
    assert [str(count) for count in found["threads"].dropna()] == ["2"] * len(times)


def test_an_adapter_without_times_is_named(study):
    times = times_of(study)
    with pytest.raises(MergeloomError, match=r"dawe_task_wise from ViT-Nano .*\.times\.json"):
        cost(study.frame, study.adapters[:-1], times[:-1])


# What does not belong together


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"benchmark": "demo9"}, "is of benchmark demo9"),
        ({"tasks": {}}, "missing: digits, house_numbers, signs"),
        ({"average": {}}, "has no average.accuracy"),
        ({"schema": "mergeloom/result/1"}, "expected 'mergeloom/adaptive/1'"),
    ],
)
def test_a_result_of_something_else_is_one_clear_error(change, words, tmp_path):
    files = made.write(tmp_path, made.DEMO)
    path = Path(files.adapters[0])
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(MergeloomError, match=words):
        read_models(files.mergers, files.adapters, made.DEMO.tasks)


def test_an_adapter_given_twice_is_told_with_where_it_came_from(study):
    files = study.files
    with pytest.raises(MergeloomError, match=r"adaptive/.*/from/ViT-Nano/dawe_task_wise.json was"):
        read_models(files.mergers, [*files.adapters, files.adapters[-1]], study.made.tasks)


def test_curves_and_coefficients_of_something_else_are_named(tmp_path):
    frame = made.curve(made.DEMO, made.DEMO.adapters["dawe_task_wise"])
    frame[frame["step"] > 0].to_parquet(tmp_path / "curve.parquet")
    with pytest.raises(MergeloomError, match=r"curve.parquet: has no rows of step 0"):
        read_curve(str(tmp_path / "curve.parquet"), made.DEMO.tasks)
    with pytest.raises(MergeloomError, match=r"curve.parquet: has the columns .* missing: expert"):
        read_coefficients(str(tmp_path / "curve.parquet"), made.DEMO.tasks)
    found = made.coefficients(made.DEMO, made.DEMO.adapters["dawe_task_wise"])
    found.to_parquet(tmp_path / "found.parquet")
    with pytest.raises(MergeloomError, match="has the task house_numbers, signs, which the bench"):
        read_coefficients(str(tmp_path / "found.parquet"), ["digits"])


# Corrupted images


def test_a_row_per_kind_of_images_and_model(study):
    frame = study.corrupted
    assert list(dict.fromkeys(frame["images"])) == ["clean", *CORRUPTIONS]
    assert (frame.groupby("images")["model"].count() == 9).all()
    row = frame[(frame["images"] == "motion_blur2") & (frame["model"] == "dawe_task_wise")].iloc[0]
    (path,) = [p for p in study.files.corrupted if p.endswith("blur2/adaptive/dawe_task_wise.json")]
    result = read_json(path)
    assert row["accuracy"] == result["average"]["accuracy"]
    assert row["before"] == result["before"]["average"]["accuracy"]
    assert row["gain"] == pytest.approx(row["accuracy"] - row["before"])
    smile = frame[(frame["images"] == "motion_blur2") & (frame["model"] == "smile")]
    assert np.isnan(smile["before"].iloc[0])


def test_a_collapse_on_corrupted_images_is_marked(study):
    frame = study.corrupted
    fell = frame[frame["collapsed"].map(bool)]
    assert set(fell["model"]) == {"adamerging_layer_wise"}
    text = markdown_of_corrupted(frame, study.made.tasks, "demo")
    (line,) = [x for x in text.splitlines() if x.startswith("| adamerging") and "→" in x]
    assert line.count("!") == len(CORRUPTIONS) + 1
    assert "## motion blur, severity 2" in text


def test_published_figures_on_corrupted_images_stand_at_their_kind(study):
    figure = Figure("dawe_task_wise", "", "", "", "", 0.83, None, False, "a paper", "motion_blur2")
    results = map(read_json, study.files.corrupted)
    frame = table(results, study.made.tasks, [figure])
    known = frame[frame["published_accuracy"].notna()]
    assert list(zip(known["images"], known["model"], strict=True)) == [
        ("motion_blur2", "dawe_task_wise")
    ]
    assert known["published_source"].tolist() == ["a paper"]
    text = markdown_of_corrupted(frame, study.made.tasks, "demo")
    assert text.endswith("Published:\n\n- dawe task wise: a paper\n")
    assert not {"published_accuracy", "published_source"} & set(study.corrupted)
    assert "Published:" not in markdown_of_corrupted(study.corrupted, study.made.tasks, "demo")


def test_the_figure_of_corrupted_images_has_both_ends_of_an_adaptation(study, figures):
    axes = next(
        a for a in figures["corrupted"].axes if a.get_title(loc="left").startswith("motion")
    )
    rows = study.corrupted[study.corrupted["images"] == "motion_blur2"]
    row = rows[rows["model"] == "adamerging_layer_wise"].iloc[0]
    points = {line.get_xdata()[0]: line for line in axes.lines if line.get_marker() == "o"}
    assert to_hex(points[row["before"]].get_markeredgecolor()) == style.WARNING.lower()
    assert to_hex(points[row["before"]].get_markerfacecolor()) == "#ffffff"
    assert to_hex(points[row["accuracy"]].get_markerfacecolor()) == style.WARNING.lower()


def test_the_legend_of_corrupted_images_names_what_is_drawn(study, figures, tmp_path):
    assert {"oracle", "adapter, before", "collapsed on average"} <= set(texts(figures["corrupted"]))
    untrained = Study(tmp_path, made.narrow()).figures()["corrupted"]
    assert "adapter" in texts(untrained)
    assert not {"oracle", "adapter, before", "adapter, after"} & set(texts(untrained))


# Coefficients


def test_the_matrix_has_the_inputs_as_rows_and_the_experts_as_columns():
    frame = pd.DataFrame(
        [("a", "a", "x", 0.5), ("a", "a", "y", 0.7), ("a", "b", "x", 0.1), ("a", "b", "y", 0.2),
         ("b", "a", "x", 0.3), ("b", "b", "x", 0.2)],
        columns=["task", "expert", "layer", "mean"],
    )  # fmt: skip
    np.testing.assert_allclose(matrix(frame, ["a", "b"]), [[0.6, 0.15], [0.3, 0.2]])
    assert hits(matrix(frame, ["a", "b"])) == 1


def test_the_heatmap_says_of_how_many_tasks_the_own_expert_is_largest(figures):
    assert text_of(figures["coefficients"]).count("own expert largest: 3 of 3") == 4
    same = pd.DataFrame(
        [(t, e, None, 0.3) for t in "ab" for e in "ab"], columns=["task", "expert", "layer", "mean"]
    )
    text = text_of(coefficients({"adamerging": same, "none": same[:0]}, ["a", "b"]))
    assert "the same for all inputs" in text
    assert "none" not in text


def test_parameters_are_put_into_the_order_in_which_the_input_passes():
    clip = ["visual.proj", "visual.ln_post.bias", "visual.conv1.weight"]
    clip += [f"visual.transformer.resblocks.{i}.mlp.c_fc.weight" for i in (10, 2, 0)]
    assert stages(clip) == [
        ("input", ["visual.conv1.weight"]),
        ("1", ["visual.transformer.resblocks.0.mlp.c_fc.weight"]),
        ("2", ["visual.transformer.resblocks.2.mlp.c_fc.weight"]),
        ("3", ["visual.transformer.resblocks.10.mlp.c_fc.weight"]),
        ("output", ["visual.ln_post.bias", "visual.proj"]),
    ]
    t5 = [f"{side}.block.{i}.layer.0.SelfAttention.q.weight"
          for side in ("decoder", "encoder") for i in (1, 0)]  # fmt: skip
    assert [name for name, _ in stages(t5)] == ["1", "2", "d1", "d2"]


def test_a_block_has_the_mean_of_its_parameters():
    keys = [f"visual.transformer.resblocks.0.{name}.weight" for name in ("ln_1", "ln_2")]
    frame = pd.DataFrame(
        [("a", "a", key, value) for key, value in zip(keys, (0.2, 0.4), strict=True)],
        columns=["task", "expert", "layer", "mean"],
    )
    names, values = by_depth(frame, ["a"])
    assert names == ["1"]
    np.testing.assert_allclose(values, [[[0.3]]])


# Figures


def test_curves_show_the_value_before_the_step_taken_and_collapses(study, figures):
    fig = figures["curves"]
    axes = fig.axes[1]  # accuracy of the second adapter, which collapsed
    curve = read_curve(study.files.curves[1], study.made.tasks)
    mean = curve[curve["task"] == "average"]
    bold = max(axes.lines, key=lambda line: line.get_linewidth())
    np.testing.assert_array_equal(bold.get_ydata(), mean["val_accuracy"])
    signs = curve.loc[curve["task"] == "signs", "val_accuracy"]
    flat = [line for line in axes.lines if len(set(line.get_ydata())) == 1]
    assert {line.get_ydata()[0] for line in flat} == {
        mean["val_accuracy"].iloc[0], mean["val_accuracy"].iloc[-1], signs.iloc[-1]
    }  # fmt: skip
    (cross,) = [line for line in axes.lines if line.get_marker() == "x"]
    assert to_hex(cross.get_color()) == style.WARNING.lower()
    assert cross.get_xydata().tolist() == [[200, signs.iloc[-1]]]
    (fell,) = [line for line in axes.lines if np.array_equal(line.get_ydata(), signs)]
    look = style.series(study.made.tasks.index("signs"))
    assert to_hex(fell.get_color()) == to_hex(look["color"]), "a task keeps its colour"
    assert "collapsed: average, signs" in texts(fig)
    assert texts(fig).count("test inputs, 200 steps") == 2, "of the one that collapsed, too"
    assert "smile" not in text_of(fig), "it is not trained"


def test_models_stand_at_one_height_in_both_panels_of_the_costs(study, figures):
    left, right = figures["cost"].axes[:2]

    def heights(axes):
        return [x.get_ydata()[0] for x in axes.lines if x.get_transform() == axes.transData]

    assert heights(left) == heights(right) == pytest.approx(list(study.frame["accuracy"]), abs=1e-6)
    assert "adamerging layer wise (collapsed)" in text_of(figures["cost"])


def test_labels_are_moved_apart_as_little_as_needed_in_their_order():
    random = np.random.default_rng(0)
    for count in (1, 2, 9, 25):
        values = random.uniform(0, 1, count) ** 3
        placed = np.array(spread(values, 0.04, 0.0, 1.0))
        order = np.argsort(values, kind="stable")
        assert (np.diff(placed[order]) >= 0.04 - 1e-9).all()
        assert placed.min() >= 0
        assert placed.max() <= 1 + 1e-9
    np.testing.assert_allclose(spread([0.2, 0.5, 0.9], 0.1, 0.0, 1.0), [0.2, 0.5, 0.9])
    np.testing.assert_allclose(spread([0.5, 0.5], 0.1, 0.0, 1.0), [0.45, 0.55])
    np.testing.assert_allclose(spread([1.0, 1.0, 1.0], 0.7, 0.0, 1.0), [0.0, 0.5, 1.0])


@pytest.mark.parametrize("name", CASES)
def test_figures_of_adapters_fit_their_canvas(name, tmp_path):
    subject = "ViT-Nano-real8, a_long_collection_of_experts, real8, adaptive_demo"
    for figure_name, fig in Study(tmp_path, CASES[name]).figures(subject).items():
        check_fits(fig, figure_name)


def test_looks_of_many_models_differ():
    found = looks([("adapter", f"adapter_{i}") for i in range(24)])
    kinds = {(x["color"], x["marker"], x["fillstyle"], x["markerfacecolor"]) for x in found}
    assert len(kinds) == 24


def test_labels_of_the_costs_do_not_overlap(wide):
    fig = wide.figures()["cost"]
    with style.style.context(style.STYLE, after_reset=True):
        fig.draw_without_rendering()
        boxes = [text.get_window_extent() for text in fig.axes[1].texts]
    assert len(boxes) == 26, "25 models, and the task that one collapsed on"
    for i, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[i + 1 :])


def test_a_study_without_trained_adapters_says_so(tmp_path):
    found = Study(tmp_path, made.narrow()).figures()
    assert "No adapter of this study is trained" in text_of(found["curves"])
    assert "has coefficients of the experts" in text_of(found["coefficients"])
    assert "has coefficients by layer" in text_of(found["layers"])


def test_the_depth_shows_what_coefficients_were_before_and_when_they_are_the_same(figures):
    frame = pd.DataFrame(
        [(t, e, f"visual.transformer.resblocks.{i}.mlp.c_fc.weight", 0.1 * i)
         for t in "ab" for e in "ab" for i in range(2)],
        columns=["task", "expert", "layer", "mean"],
    )  # fmt: skip
    same = layers({"constant": frame}, ["a", "b"], {"constant": 0.3})
    assert "the same for all inputs" in texts(same)
    assert "before adaptation" in texts(same)
    flat = [line for line in same.axes[0].lines if set(line.get_ydata()) == {0.3}]
    assert len(flat) == 1
    assert "the same for all inputs" not in texts(figures["layers"])
    assert "before adaptation" not in texts(layers({"smile": frame}, ["a", "b"], {}))


def test_depths_are_named_without_crowding_at_the_ends():
    def named(parts):
        return [parts[i] for i in ticks_of(parts)]

    blocks = [str(i + 1) for i in range(24)]
    assert named(["input", *blocks[:3], "output"]) == ["input", "1", "2", "3", "output"]
    assert named(blocks[:3]) == ["1", "2", "3"]
    of_many = named(["input", *blocks, "output"])
    assert of_many[:3] == ["input", "2", "4"]
    assert of_many[-2:] == ["22", "output"]


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_tables_and_figures_of_adapters_made_twice_have_the_same_bytes(suffix, study, tmp_path):
    for turn in ("one", "two"):
        for name, fig in study.figures().items():
            style.save(fig, tmp_path / turn / f"{name}{suffix}")
        write_csv(tmp_path / turn / "summary.csv", study.frame)
        write_csv(tmp_path / turn / "corrupted.csv", study.corrupted)
    check_same_bytes(tmp_path / "one", tmp_path / "two", 7)


def test_tables_and_figures_of_adapters_need_neither_torch_nor_pyplot():
    modules = "coefficients corrupted cost curves figures layers look study tables text"
    names = [f"mergeloom.report.adaptive.{name}" for name in modules.split()]
    assert not loaded(["mergeloom.config.adaptive", *names], {"torch", "matplotlib.pyplot"})
