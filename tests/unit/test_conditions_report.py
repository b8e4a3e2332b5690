"""Tables and figures of a study of conditions say what was measured, and nothing else."""

import json
import statistics
from pathlib import Path
from typing import Any

import conditions_study as made
import numpy as np
import pandas as pd
import pytest
from drawn import check_fits, check_same_bytes, loaded, text_of
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from mergeloom.config.conditions import design as design_of_sweep
from mergeloom.errors import MergeloomError
from mergeloom.report import style
from mergeloom.report.conditions.accuracy import accuracy
from mergeloom.report.conditions.alpha_curves import alpha_curves, by_condition
from mergeloom.report.conditions.correlation import points_of, rank_correlation, spearman
from mergeloom.report.conditions.design import Design, design, text
from mergeloom.report.conditions.log_trace_accuracy import log_trace_accuracy
from mergeloom.report.conditions.log_trace_training import log_trace_training
from mergeloom.report.conditions.study import Measured, read_histories, read_study
from mergeloom.report.conditions.tables import Numbers, markdown, mergers_table
from mergeloom.report.conditions.tidy import COLUMNS, over_seeds, read_tidy, tidy
from mergeloom.report.markdown import WIDTH
from mergeloom.report.tables import write_csv

SWEEPS = {"demo": made.DEMO, "polito": made.polito()}


class Study:
    """A made-up study, read."""

    def __init__(self, folder: Path, sweep: made.Made) -> None:
        self.sweep, self.files = sweep, made.write(folder, sweep)
        self.histories = read_histories(made.runs(self.files), sweep.tasks, self.files.training)
        self.measured = self.read()
        self.frame = tidy(self.measured, self.files.zeroshot, sweep.tasks)
        self.summary = over_seeds(self.frame)
        self.design = design(sweep.conditions, sweep.base, sweep.cross)

    def read(self) -> list[Measured]:
        files = self.files
        return read_study(
            files.collections, files.tasks, files.mergers, files.results, files.measures,
            self.histories,
        )  # fmt: skip

    def value(self, frame: pd.DataFrame | None = None, **of: Any) -> float:
        frame = self.frame if frame is None else frame
        for column, value in of.items():
            frame = frame[frame[column] == value]
        assert len(frame) == 1
        return float(frame["mean" if "mean" in frame else "value"].iloc[0])

    def markdown(self, log_trace: Any = made.SETTINGS) -> str:
        sweep = self.sweep
        return markdown(
            self.summary, self.frame, sweep.tasks, sweep.mergers, log_trace, "demo"
        )  # fmt: skip

    def figures(self, subject: str = "demo") -> dict[str, Figure]:
        sweep, seed = self.sweep, self.sweep.seeds[0]
        histories = {c: self.histories[f"sweep.{c}.seed{seed}"] for c in sweep.conditions}
        merged = (m.results[name] for m in self.measured for name in sweep.mergers)
        searched = by_condition(self.files.collections, sweep.mergers, merged)
        selections, mergers = sweep.selections, sweep.mergers
        return {
            "accuracy": accuracy(self.summary, self.design, selections, mergers, subject),
            "training": log_trace_training(histories, self.design, selections, seed, subject),
            "scatter": log_trace_accuracy(self.frame, self.design, mergers[0], subject),
            "alpha": alpha_curves(searched, self.design, selections, mergers, subject),
        }


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Study(tmp_path_factory.mktemp("study"), made.DEMO)


@pytest.fixture(scope="module")
def figures(study):
    return study.figures()


# The tidy table


def test_a_row_holds_a_number_of_the_files(study):
    assert list(study.frame.columns) == COLUMNS
    assert not study.frame.duplicated(COLUMNS[:-1]).any()
    assert not study.frame["value"].isna().any()
    of = {"condition": "batch_size-32", "selection": "max_fim", "seed": 1}
    measured = next(
        m for m in study.measured if (m.condition, m.selection, m.seed) == tuple(of.values())
    )
    for model, result in measured.results.items():
        for split, scores in (("test", result["tasks"]), ("val", result["validation"]["tasks"])):
            for metric in ("accuracy", "normalized_accuracy", "loss"):
                of_number = of | {"model": model, "task": "signs", "split": split, "metric": metric}
                assert study.value(**of_number) == scores["signs"][metric]
        measures = measured.measures[model]["tasks"]
        for metric, key in (("log_trace", "value"), ("log_trace_se", "standard_error")):
            of_number = of | {"model": model, "task": "signs", "split": "train", "metric": metric}
            assert study.value(**of_number) == measures["signs"]["log_trace"][key]
    alpha = study.value(**of, model="tsv", metric="alpha", split="val", task="average")
    assert alpha == measured.results["tsv"]["alpha"]["value"]
    scaled = measured.measures["task_addition"]["scaled"]["digits"]
    of_scaled = of | {"model": "task_addition.scaled", "task": "digits"}
    for split in ("train", "test"):
        assert study.value(**of_scaled, split=split, metric="accuracy") == scaled[split]["accuracy"]


def test_an_average_is_the_mean_over_tasks_of_log_traces_too(study):
    of = {"condition": "base", "selection": "last", "seed": 0, "model": "task_addition"}
    for split, metric in (
        ("test", "accuracy"), ("train", "normalized_accuracy"), ("train", "log_trace"),
    ):  # fmt: skip
        values = [study.value(**of, split=split, metric=metric, task=t) for t in study.sweep.tasks]
        average = study.value(**of, split=split, metric=metric, task="average")
        assert average == pytest.approx(statistics.mean(values), rel=1e-12)


def test_a_selection_is_the_first_largest_after_epoch_0_and_last_is_the_last(study):
    rows = study.histories["sweep.base.seed0"]["signs"]
    later = rows[rows["epoch"] >= 1]
    expected = {
        "last": later.iloc[-1],
        "max_val": later.loc[later["val_accuracy"].idxmax()],
        "max_fim": later.loc[later["log_trace"].idxmax()],
    }
    for selection, row in expected.items():
        of = {"condition": "base", "selection": selection, "seed": 0, "task": "signs", "split": ""}
        assert study.value(**of, metric="epoch") == row["epoch"]
        assert study.value(**of, metric="steps") == row["step"]
    assert len({row["epoch"] for row in expected.values()}) == 3


def test_zero_shot_stands_once_without_condition(study):
    rows = study.frame[study.frame["model"] == "zeroshot"]
    assert set(rows["condition"]) | set(rows["selection"]) == {""}
    assert rows["seed"].isna().all()
    assert set(rows["split"]) == {"test"}
    assert set(rows["metric"]) == {"accuracy", "loss"}
    assert len(rows) == 2 * len(study.sweep.tasks) + 1


def test_the_table_read_back_from_csv_is_the_same_to_six_decimals(study, tmp_path):
    write_csv(tmp_path / "conditions.csv", study.frame)
    again = read_tidy(tmp_path / "conditions.csv")
    pd.testing.assert_frame_equal(again, study.frame, rtol=0, atol=5e-7, check_dtype=False)


def test_means_and_sample_deviations_over_seeds():
    values = [0.5, 0.7, 0.75]
    rows = [
        ("base", "last", s, "finetuned", "a", "test", "accuracy", v) for s, v in enumerate(values)
    ]
    rows.append(("base", "last", 0, "finetuned", "a", "test", "loss", 2.0))
    rows.append(("base", "last", 0, "finetuned", "a", "train", "log_trace_se", 0.1))
    summary = over_seeds(pd.DataFrame(rows, columns=COLUMNS))
    assert list(summary["metric"]) == ["accuracy", "loss"]
    several, one = summary.iloc[0], summary.iloc[1]
    assert several["mean"] == pytest.approx(0.65)
    assert several["sd"] == pytest.approx(statistics.stdev(values))
    assert (several["seeds"], one["seeds"]) == (3, 1)
    assert np.isnan(one["sd"])


# What does not belong together


def of_another_benchmark(content: dict[str, Any]) -> None:
    content["benchmark"] = "N8"


def of_other_experts(content: dict[str, Any]) -> None:
    content["experts"] = "sweep.base.seed7"


def of_another_alpha(content: dict[str, Any]) -> None:
    content["alpha"] = 0.95


def without_a_task(content: dict[str, Any]) -> None:
    del content["tasks"]["signs"]


def in_another_mode(content: dict[str, Any]) -> None:
    content["log_trace"] = {"mode": "course", "examples": 100}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (of_another_benchmark, ["benchmark is N8, expected demo"]),
        (of_other_experts, ["experts is sweep.base.seed7"]),
        (of_another_alpha, ["alpha is 0.95"]),
        (without_a_task, ["tasks is", "signs"]),
        (in_another_mode, ["course", "fisher"]),
    ],
)
def test_measures_of_something_else_are_one_clear_error(study, spoil, words):
    path = Path(study.files.measures[-2])
    kept = path.read_text()
    content = json.loads(kept)
    spoil(content)
    path.write_text(json.dumps(content))
    try:
        with pytest.raises(MergeloomError) as error:
            study.read()
    finally:
        path.write_text(kept)
    for word in (str(path), *words):
        assert word in str(error.value)


def test_a_history_without_what_a_selection_looks_at_is_an_error(study):
    kept = study.histories["sweep.base.seed1"]
    study.histories["sweep.base.seed1"] = {t: h.drop(columns="log_trace") for t, h in kept.items()}
    try:
        with pytest.raises(MergeloomError, match=r"sweep\.base\.seed1/digits.*log_trace.*\n?.*"):
            study.read()
    finally:
        study.histories["sweep.base.seed1"] = kept


# Tables for people


def test_the_tables_write_means_in_percent_with_their_deviation(study):
    lines = study.markdown().splitlines()
    section = lines[lines.index("### Test accuracy") :]
    assert [cell.strip() for cell in section[2].split("|")[1:-1]] == [
        "condition", "selection", "average", *study.sweep.tasks,
    ]  # fmt: skip
    (row,) = [x for x in section[4:13] if x.startswith("| batch_size-32") and "max_val" in x]
    of = {"condition": "batch_size-32", "selection": "max_val", "model": "finetuned"}
    values = [
        study.value(**of, seed=seed, task="signs", split="test", metric="accuracy")
        for seed in study.sweep.seeds
    ]
    cell = f"{100 * statistics.mean(values):.1f} ± {100 * statistics.stdev(values):.1f}"
    assert row.split("|")[-2].strip() == cell
    assert len({len(line) for line in section[2:13]}) == 1, "columns are aligned"


def test_the_tables_say_what_the_log_trace_is_of(study):
    assert "Log-traces\n(Fisher, 100 shuffled examples) are" in study.markdown()
    course = study.markdown({"mode": "course", "examples": 64})
    assert "Log-traces\n(course, 64 draws) are" in course


def test_an_interval_of_few_conditions_is_not_to_be_relied_on(study):
    rows = [line for line in study.markdown().splitlines() if "| fine-tuned models |" in line]
    assert len(rows) == 2
    for row in rows:
        assert ", not to be relied on |" in row
        assert row.split("|")[-2].strip() == "3"


def test_one_seed_has_no_deviation(tmp_path):
    one = Study(tmp_path, made.DEMO._replace(seeds=[3]))
    written = one.markdown()
    assert "±" not in written
    assert "one seed" in written
    for name, fig in one.figures().items():
        assert "standard deviation" not in text_of(fig), name


def test_a_table_that_is_too_wide_is_split(tmp_path):
    tasks = [f"a_rather_long_task_{i}" for i in range(12)]
    wide = Study(tmp_path, made.DEMO._replace(tasks=tasks, seeds=[0]))
    lines = wide.markdown().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert max(map(len, rows)) <= WIDTH
    for task in tasks:
        assert sum(f" {task} |" in row for row in rows) > 5, "every table of tasks has each"


def test_the_table_of_mergers_has_each_under_every_condition(study):
    table = mergers_table(Numbers(study.summary), "demo8", study.sweep.mergers)
    assert list(table.columns) == [
        "benchmark", "condition", "selection",
        "task_addition", "task_addition_sd",
        "task_addition_normalized", "task_addition_normalized_sd",
        "tsv", "tsv_sd", "tsv_normalized", "tsv_normalized_sd",
    ]  # fmt: skip
    assert len(table) == 9
    row = table[(table["condition"] == "base") & (table["selection"] == "max_fim")].iloc[0]
    of = {"condition": "base", "selection": "max_fim", "model": "tsv", "task": "average"}
    values = [study.value(**of, seed=s, split="test", metric="normalized_accuracy") for s in (0, 1)]
    assert row["tsv_normalized"] == pytest.approx(statistics.mean(values))
    assert row["tsv_normalized_sd"] == pytest.approx(statistics.stdev(values))


# Rank correlation


def test_the_rank_correlation_is_scipys_with_ties_too():
    random = np.random.default_rng(0)
    x = random.integers(0, 6, 40).astype(float)
    y = x + random.normal(0, 3, 40)
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    found = rank_correlation(x, y, [f"c{i // 4}" for i in range(40)])
    assert found.value == spearman(x, y)
    assert found.low < found.value < found.high
    assert (found.points, found.conditions) == (40, 10)


def test_points_of_one_condition_do_not_narrow_the_interval():
    random = np.random.default_rng(1)
    x = random.normal(size=12)
    y = x + random.normal(size=12)
    conditions = [f"c{i}" for i in range(12)]
    once = rank_correlation(x, y, conditions)
    often = rank_correlation(np.repeat(x, 9), np.repeat(y, 9), list(np.repeat(conditions, 9)))
    assert (often.low, often.high) == pytest.approx((once.low, once.high), abs=1e-12)
    as_if_independent = rank_correlation(
        np.repeat(x, 9), np.repeat(y, 9), [str(i) for i in range(108)]
    )
    assert as_if_independent.high - as_if_independent.low < 0.6 * (once.high - once.low)


def test_there_is_no_correlation_of_few_or_equal_points_and_no_interval_of_one_condition():
    assert np.isnan(rank_correlation([1, 2, 3, 4], [1, 2, 3, 4], list("abcd")).value)
    assert np.isnan(rank_correlation([1] * 6, range(6), list("abcdef")).value)
    one = rank_correlation(range(6), range(6), ["a"] * 6)
    assert one.value == pytest.approx(1)
    assert np.isnan(one.low)


# Which conditions stand together


def test_the_values_of_a_factor_stand_in_numeric_order_with_the_base_among_them():
    sweep = made.polito()
    shown = design(sweep.conditions, sweep.base, sweep.cross)
    assert [group.title for group in shown.groups] == [
        "batch size",
        "learning rate",
        "weight decay",
    ]
    labels = [[level.label for level in group.levels] for group in shown.groups]
    assert labels == [
        ["8", "16", "32", "64", "128"],
        ["1e-5", "5e-5", "1e-4", "5e-4"],
        ["0", "1e-3", "0.01", "0.1"],
    ]
    assert shown.variants == ["balancing none", "balancing undersample"]
    levels = [level for group in shown.groups for level in group.levels]
    assert [level.label for level in levels if level.is_base] == ["32", "1e-4", "0"]
    assert levels[0].conditions == {
        "balancing none": "batch_size-8",
        "balancing undersample": "batch_size-8.balancing-undersample",
    }
    shown_conditions = {name for level in levels for name in level.conditions.values()}
    assert shown_conditions == set(sweep.conditions)


def test_conditions_of_several_changes_words_and_full_crosses_find_their_place():
    named = design(
        {
            "base": {},
            "small": {"lr": 1e-5, "batch_size": 8},
            "optimizer-adam": {"optimizer": "adam"},
        },
        {"lr": 1e-4, "batch_size": 32, "optimizer": "sgd"},
    )
    assert [(g.factor, [level.label for level in g.levels]) for g in named.groups] == [
        ("named", ["base", "small"]), ("optimizer", ["sgd", "adam"]),
    ]  # fmt: skip
    crossed = {
        "lr-1e-5": {"lr": 1e-5}, "base": {}, "lr-1e-3": {"lr": 1e-3},
        "lr-1e-5.batch_size-8": {"lr": 1e-5, "batch_size": 8}, "batch_size-8": {"batch_size": 8},
        "lr-1e-3.batch_size-8": {"lr": 1e-3, "batch_size": 8},
    }  # fmt: skip
    full = design(crossed, {"lr": 1e-4, "batch_size": 32}, ["lr", "batch_size"])
    (group,) = full.groups
    assert [level.label for level in group.levels] == ["1e-5", "1e-4", "1e-3"]
    assert full.variants == ["batch size 32", "batch size 8"]
    assert {c for level in group.levels for c in level.conditions.values()} == set(crossed)
    alone = design({"base": {}}, {})
    assert alone == Design(alone.groups, [""])
    assert alone.groups[0].levels[0].conditions == {"": "base"}


def test_the_design_of_a_sweep_says_what_it_changes_of_which_base():
    sweep = {"recipe": "sgd", "vary": {"lr": [1e-3, 1e-4]}, "cross": {"momentum": [0.0, 0.9]}}
    recipe = {"lr": 1e-4, "momentum": 0.0, "batch_size": 32}
    presets = {"conditions": {"s": sweep}, "recipes": {"sgd": recipe}}
    given = design_of_sweep("s", presets)
    assert given["base"] == {"momentum": 0.0, "lr": 1e-4}
    assert given["cross"] == ["momentum"]
    shown = design(**given)
    assert [level.label for level in shown.groups[0].levels] == ["1e-4", "1e-3"]
    assert shown.variants == ["momentum 0", "momentum 0.9"]


@pytest.mark.parametrize(
    ("value", "written"),
    [(5e-5, "5e-5"), (1e-4, "1e-4"), (1.5e-4, "1.5e-4"), (0.1, "0.1"), (0.0, "0"), (None, "none"),
     (32, "32"), ([0.9, 0.98], "0.9 0.98"), (20000.0, "2e4"), ("undersample", "undersample")],
)  # fmt: skip
def test_a_value_is_written_short(value, written):
    assert text(value) == written


# Figures


def test_the_accuracies_are_drawn_with_their_deviations_over_seeds(study, figures):
    fig = figures["accuracy"]
    panels = [axes for axes in fig.axes if axes.get_xlim()[1] > 1]
    axes = panels[0]  # last epoch, batch size: 32, then the base's 128
    of = {"selection": "last", "split": "test", "metric": "accuracy", "task": "average"}
    (single,) = [c for c in axes.containers if c[0].get_color() == style.FINETUNED["color"]]
    values = [
        study.value(study.summary, condition=c, model="finetuned", **of)
        for c in ("batch_size-32", "base")
    ]
    np.testing.assert_allclose(single[0].get_ydata(), values)
    found = [
        study.frame.query("model == 'finetuned' and condition == @c and selection == 'last'")
        .query("split == 'test' and metric == 'accuracy' and task == 'average'")["value"].std()
        for c in ("batch_size-32", "base")
    ]  # fmt: skip
    segments = single[2][0].get_segments()
    np.testing.assert_allclose([(s[1][1] - s[0][1]) / 2 for s in segments], found)
    zeroshot = [line for line in axes.lines if line.get_color() == style.ZEROSHOT["color"]]
    assert zeroshot[0].get_ydata()[0] == pytest.approx(study.files.zeroshot["average"]["accuracy"])


def test_fractions_at_ticks_keep_the_decimals_that_they_have():
    write = style.percent()
    assert [write(x, 0) for x in (0.35, 0.275, 1.0, 0.1 + 0.2, -0.025)] == [
        "35%", "27.5%", "100%", "30%", "−2.5%",
    ]  # fmt: skip


def test_the_base_of_what_its_recipe_lacks_is_called_base_once(tmp_path):
    sweep = made.DEMO._replace(
        conditions={"base": {}, "steps-12": {"steps": 12}},
        base={"steps": None, "batch_size": 128},
    )
    for name, fig in Study(tmp_path, sweep).figures().items():
        assert "base (base)" not in text_of(fig), name


def test_the_epochs_that_selections_take_are_marked(study, figures):
    fig = figures["training"]
    axes = fig.axes[0]  # digits, batch size
    history = study.histories["sweep.base.seed0"]["digits"]
    lines = [line for line in axes.lines if to_hex(line.get_color()) == "#111111"]
    curve = next(line for line in lines if len(line.get_xdata()) > 1)
    np.testing.assert_array_equal(curve.get_ydata(), history["log_trace"])
    marks = {line.get_marker(): line for line in lines if len(line.get_xdata()) == 1}
    for marker, selection in (("s", "last"), ("o", "max_val"), ("^", "max_fim")):
        of = {"condition": "base", "selection": selection, "seed": 0, "task": "digits"}
        epoch = study.value(**of, metric="epoch")
        assert marks[marker].get_xdata()[0] == epoch
        assert marks[marker].get_ydata()[0] == history.set_index("epoch")["log_trace"][epoch]


def test_selections_that_take_the_same_epoch_are_all_seen(study, figures):
    """Of points at one place, the marker on top is the smallest."""
    for name in ("training", "scatter"):
        points = [line for line in figures[name].axes[0].lines if len(line.get_xdata()) == 1]
        by_height = sorted(points, key=lambda line: line.get_zorder())
        sizes = [line.get_markersize() for line in by_height]
        assert sizes == sorted(sizes, reverse=True)
        assert len(set(sizes)) == len(study.sweep.selections)


def test_the_scatter_has_a_point_for_every_collection_and_says_its_correlation(study, figures):
    fig = figures["scatter"]
    points = points_of(study.frame, "task_addition")
    assert len(points) == len(study.files.collections)
    left, right = fig.axes[:2]
    for axes, column in ((left, "finetuned"), (right, "merged")):
        drawn = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines]
        np.testing.assert_allclose(drawn, points[[column, "accuracy"]].to_numpy())
    rho = spearmanr(points["finetuned"], points["accuracy"]).statistic
    written = text_of(fig).replace("−", "-")
    assert f"ρ = {rho:.2f}, 95% interval" in written
    assert "18 points of 3 conditions; few" in written


def test_too_few_points_for_a_correlation_are_said_and_drawn(tmp_path):
    few = Study(tmp_path, made.DEMO._replace(seeds=[0], selections=["last"]))
    assert text_of(few.figures()["scatter"]).count("needs 5 points, there are 3") == 2


def test_the_alphas_that_were_chosen_are_marked_on_the_mean_curve(study, figures):
    fig = figures["alpha"]
    axes = fig.axes[0]  # task addition, last epoch, batch size
    results = [
        m.results["task_addition"]["alpha"] for m in study.measured
        if (m.condition, m.selection) == ("base", "last")
    ]  # fmt: skip
    mean = np.mean([[p["normalized_accuracy"] for p in r["curve"]] for r in results], axis=0)
    lines = [line for line in axes.lines if to_hex(line.get_color()) == "#111111"]
    np.testing.assert_allclose(lines[0].get_ydata(), mean)
    marks = [(line.get_xdata()[0], line.get_ydata()[0]) for line in lines[1:]]
    expected = [(r["value"], mean[made.GRID.index(r["value"])]) for r in results]
    np.testing.assert_allclose(marks, expected)


def test_mergers_whose_alpha_was_not_searched_have_no_curve(study):
    fixed = {
        (m.condition, m.selection): {**m.results["tsv"], "alpha": {"value": 1.0, "how": "fixed"}}
        for m in study.measured
    }
    searched = {("tsv", *key): [result] for key, result in fixed.items()}
    fig = alpha_curves(searched, study.design, study.sweep.selections, ["tsv"])
    assert "No merger's alpha was searched" in text_of(fig)


@pytest.mark.parametrize("name", SWEEPS)
def test_figures_fit_their_canvas(name, tmp_path):
    for figure_name, fig in Study(tmp_path, SWEEPS[name]._replace(seeds=[0])).figures().items():
        check_fits(fig, figure_name)


def test_what_a_figure_is_of_fits_even_the_narrowest(tmp_path):
    """The layout makes no room for it."""
    narrow = made.DEMO._replace(
        conditions={"base": {}, "batch_size-32": {"batch_size": 32}}, seeds=[0]
    )
    subject = "ViT-Nano-real8, real8, real8_conditions, Fisher, 250 shuffled examples"
    for name, fig in Study(tmp_path, narrow).figures(subject).items():
        with style.style.context(style.STYLE, after_reset=True):
            fig.draw_without_rendering()
            (text,) = [text for text in fig.texts if text.get_text().startswith(subject)]
            assert text.get_window_extent().x1 < fig.bbox.x1, name


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_tables_and_figures_made_twice_have_the_same_bytes(suffix, study, tmp_path):
    for turn in ("one", "two"):
        for name, fig in study.figures().items():
            style.save(fig, tmp_path / turn / f"{name}{suffix}")
        write_csv(tmp_path / turn / "conditions.csv", study.frame)
        (tmp_path / turn / "summary.md").write_text(study.markdown())
    check_same_bytes(tmp_path / "one", tmp_path / "two", 6)


def test_tables_and_figures_need_neither_torch_nor_pyplot():
    modules = "accuracy alpha_curves log_trace_accuracy log_trace_training study tables tidy"
    names = [f"mergeloom.report.conditions.{name}" for name in modules.split()]
    assert not loaded(["mergeloom.config.conditions", *names], {"torch", "matplotlib.pyplot"})
