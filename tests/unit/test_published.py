"""Published figures: the files agree with themselves, and stand beside ours only where they may."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from drawn import texts
from matplotlib import style as mpl_style
from test_report import study

from mergeloom.config.presets import load_presets, schema_named
from mergeloom.errors import MergeloomError
from mergeloom.report import style
from mergeloom.report.bars import bars
from mergeloom.report.published import AVERAGES, Figure, lookup, read_published
from mergeloom.report.tables import markdown, read_csv, summary, tasks_of, write_csv

CONFIG = Path(__file__).parents[2] / "config"
# The benchmark that a family has fine-tuned accuracies of.
TWENTY = {"tall_drive": "N20-stored", "crisostomi": "N20-11way", "tanganke": "N20-letters"}


@pytest.fixture(scope="module")
def figures():
    return read_published([CONFIG])


@pytest.fixture(scope="module")
def single_tasks(figures):
    """Accuracies by method, encoder, benchmark and experts, then by task."""
    known = defaultdict(dict)
    for figure in figures:
        if figure.task:
            known[figure[:4]][figure.task] = figure
    return known


def averages_of_papers(figures, single_tasks):
    return [f for f in figures if not (f.task or f.images) and f[:4] in single_tasks]


# What the files say


def test_averages_are_the_mean_of_the_accuracies_of_their_tasks(figures, single_tasks):
    averages = averages_of_papers(figures, single_tasks)
    assert len(averages) > 20
    for figure in averages:
        values = [single.accuracy for single in single_tasks[figure[:4]].values()]
        assert len(values) == (8 if figure.benchmark in ("N8", "glue8") else 20)
        # A table's accuracies by task have one decimal, its averages two, or one, too.
        has_one = round(figure.accuracy, 3) == figure.accuracy
        exact = 1.001e-3 if has_one else 1.1e-4
        assert np.mean(values) == pytest.approx(figure.accuracy, abs=exact), figure


def test_normalized_averages_are_means_of_the_accuracy_over_that_of_the_fine_tuned_model(
    figures, single_tasks
):
    def best_of(figure):
        return single_tasks["finetuned", figure.encoder, TWENTY[figure.experts], figure.experts]

    normalized = [f for f in averages_of_papers(figures, single_tasks) if f.normalized_accuracy]
    assert len(normalized) > 10
    for figure in normalized:
        best = best_of(figure)
        values = single_tasks[figure[:4]]
        ratios = [single.accuracy / best[task].accuracy for task, single in values.items()]
        assert np.mean(ratios) == pytest.approx(figure.normalized_accuracy, abs=1.6e-4), figure
    for values in single_tasks.values():
        for task, single in values.items():
            if single.normalized_accuracy:
                ratio = single.accuracy / best_of(single)[task].accuracy
                assert ratio == pytest.approx(single.normalized_accuracy, abs=2e-4), single


def test_the_leak_of_dtd_is_in_the_drive_family_alone(single_tasks):
    def of_dtd(experts):
        return single_tasks["finetuned", "ViT-B-32", TWENTY[experts], experts]["DTD"].accuracy

    assert of_dtd("tall_drive") > 0.97
    assert of_dtd("crisostomi") < 0.8
    assert of_dtd("tanganke") < 0.8


def test_every_benchmark_encoder_and_task_of_a_figure_exists(figures):
    known = {
        kind: load_presets(kind, [CONFIG], schema_named(CONFIG / "schema", kind))
        for kind in ("benchmarks", "encoders")
    }
    for figure in figures:
        assert figure.encoder in known["encoders"]
        assert figure.benchmark in known["benchmarks"]
        assert not figure.task or figure.task in known["benchmarks"][figure.benchmark]


def test_the_family_with_the_leak_has_the_name_of_no_collection_that_ships():
    experts = load_presets("experts", [CONFIG], schema_named(CONFIG / "schema", "experts"))
    assert "tall_drive" not in experts


def test_a_figure_is_looked_up_as_the_paper_prints_it(figures):
    found = lookup(figures, "ViT-B-32", "N8", "tall_drive")
    known = {merger: by_task[""] for merger, by_task in found.items()}
    assert known["tsv"].accuracy == 0.8586
    assert known["tsv"].normalized_accuracy == 0.9231
    assert "2412.00081" in known["tsv"].source
    assert known["isotropic"].accuracy == 0.863
    assert known["finetuned"].normalized_accuracy is None
    assert known["tsv_c"].per_task
    assert not known["tsv"].per_task
    assert lookup(figures, "ViT-B-32", "N8", "finetuned") == {}


def test_the_figures_of_single_tasks_are_looked_up_with_their_average(figures):
    known = lookup(figures, "ViT-B-32", "N20-letters", "tanganke")["tsv_at_1"]
    assert len(known) == 21
    assert known[""].accuracy == 0.7323
    assert known["KMNIST-kana"].benchmark == "N20-letters"


def test_another_estimator_of_the_fisher_information_stands_beside_no_merger(figures):
    mergers = load_presets("mergers", [CONFIG], schema_named(CONFIG / "schema", "mergers"))
    known = lookup(figures, "ViT-B-32", "N8", "tanganke")
    assert known["fisher_of_batches"][""].accuracy == 0.706
    assert "regmean" in mergers
    assert "fisher_of_batches" not in mergers
    assert "fisher" not in known


# Wrong files

LINE = "tsv,ViT-B-32,N8,mine,85.86,92.31,false,Table 1\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("merger,accuracy\n", ["line 1", "merger, accuracy", "normalized_accuracy"]),
        ("", ["line 1", "none"]),
        (LINE.replace("85.86", "0.8586"), ["line 2", "accuracy", "'0.8586'", "percent"]),
        (LINE.replace("85.86", "858.6"), ["line 2", "accuracy", "1 to 100"]),
        (LINE.replace("92.31", "nan"), ["line 2", "normalized_accuracy", "'nan'"]),
        (LINE.replace("85.86", "high"), ["line 2", "'high'"]),
        (LINE.replace("false", "no"), ["line 2", "per_task", "'no'", "true or false"]),
        (LINE.replace("Table 1", " "), ["line 2", "source is empty"]),
        (LINE.replace("tsv", ""), ["line 2", "method is ''"]),
        (LINE.replace("Table 1", "Table 1, row 2"), ["line 2", "9 fields", "8 columns", "quotes"]),
        (LINE + LINE, ["line 3", "tsv ViT-B-32 N8 mine", "line 2"]),
        (LINE + "\n", ["line 3", "0 fields"]),
    ],
)
def test_a_wrong_line_is_an_error_that_names_file_and_line(text, words, tmp_path):
    (tmp_path / "published").mkdir()
    whole = text if not text or text.startswith("merger") else ",".join(AVERAGES) + "\n" + text
    (tmp_path / "published" / "mine.csv").write_text(whole)
    with pytest.raises(MergeloomError, match=r"mine\.csv") as error:
        read_published([tmp_path])
    for word in words:
        assert word in str(error.value)


def test_a_file_that_is_no_text_is_an_error_that_names_it(tmp_path):
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "mine.csv").write_bytes(b"method,\xff\xfe\n")
    with pytest.raises(MergeloomError, match=r"mine\.csv: not a CSV file in UTF-8"):
        read_published([tmp_path])


def test_a_figure_given_in_two_folders_names_both(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder / "published").mkdir(parents=True)
        file = tmp_path / folder / "published" / "mine.csv"
        file.write_text(",".join(AVERAGES) + "\n" + LINE)
    with pytest.raises(MergeloomError, match=r"b/published/mine\.csv, line 2: .*a/published"):
        read_published([tmp_path / "a", tmp_path / "b"])
    assert read_published([tmp_path]) == []


# Beside ours


def figure(method, accuracy=0.5, normalized=0.6, experts="finetuned", task="", **more):
    names = {"encoder": "ViT-Nano", "benchmark": "demo", **more}
    return Figure(method, names["encoder"], names["benchmark"], experts, task,
                  accuracy, normalized, False, f"Table of {method}")  # fmt: skip


OURS = [figure("tsv", 0.71, 0.82), figure("weight_average", 0.44, None)]


def test_a_published_average_stands_before_the_tasks_with_its_source(tmp_path):
    frame = summary(study(), published=OURS)
    assert list(frame.columns[5:10]) == [
        "normalized_accuracy", "published_accuracy", "published_normalized_accuracy",
        "published_source", "digits",
    ]  # fmt: skip
    assert tasks_of(frame) == ["digits", "house_numbers", "signs"]
    rows = frame.set_index("merger")
    assert rows.loc["tsv", "published_accuracy"] == 0.71
    assert rows.loc["tsv", "published_normalized_accuracy"] == 0.82
    assert np.isnan(rows.loc["weight_average", "published_normalized_accuracy"])
    assert rows.loc["zeroshot", "published_source"] == ""
    write_csv(tmp_path / "summary.csv", frame)
    (row,) = [
        row
        for row in csv.DictReader((tmp_path / "summary.csv").read_text().splitlines())
        if row["merger"] == "weight_average"
    ]
    assert row["published_accuracy"] == "0.440000"
    assert row["published_normalized_accuracy"] == ""
    assert row["published_source"] == "Table of weight_average"
    again = read_csv(tmp_path / "summary.csv")
    assert list(again["published_source"]) == list(frame["published_source"])


def test_a_published_accuracy_of_a_task_stands_in_the_csv_alone(tmp_path):
    single = figure("tsv", 0.25, 0.3, task="digits")
    plain, given = summary(study(), published=OURS), summary(study(), published=[*OURS, single])
    place = list(given.columns).index("digits_published")
    assert list(given.columns[place - 2 : place]) == ["digits", "digits_normalized"]
    assert list(given.drop(columns="digits_published").columns) == list(plain.columns)
    rows = given.set_index("merger")["digits_published"]
    assert rows.dropna().to_dict() == {"tsv": 0.25}
    assert tasks_of(given) == tasks_of(plain)
    assert markdown(given) == markdown(plain)
    for name, frame in (("plain", plain), ("given", given)):
        style.save(bars(frame), tmp_path / f"{name}.svg")
    assert (tmp_path / "plain.svg").read_bytes() == (tmp_path / "given.svg").read_bytes()


def test_a_published_accuracy_of_a_task_needs_no_average():
    frame = summary(study(), published=[figure("tsv", 0.25, task="digits")])
    assert [column for column in frame.columns if "published" in column] == ["digits_published"]


def test_markdown_puts_published_averages_beside_ours_and_names_their_sources():
    lines = markdown(summary(study(), published=OURS)).splitlines()
    assert lines[0] == "| merger | α | average | published | digits | house_numbers | signs |"
    assert len({line.count("|") for line in lines[:7]}) == 1
    cells = {line.split(" | ")[0].strip("| "): line.split(" | ")[3] for line in lines[2:7]}
    assert cells["tsv"] == "71.0 (82.0)"
    assert cells["weight_average"] == "44.0"
    assert cells["task_arithmetic"] == ""
    assert lines[-2:] == ["- weight_average: Table of weight_average", "- tsv: Table of tsv"]


@pytest.mark.parametrize(
    "other",
    [
        figure("tsv", experts="crisostomi"),
        figure("tsv", encoder="ViT-B-32"),
        figure("tsv", benchmark="N8"),
        figure("tsv_at_1"),
        figure("tsv", experts="crisostomi", task="digits"),
        figure("tsv", task="letters"),
    ],
    ids=["family", "encoder", "benchmark", "merger", "task of another family", "task"],
)
def test_a_figure_of_another_family_encoder_benchmark_or_merger_never_shows(other, tmp_path):
    plain, given = summary(study()), summary(study(), published=[other])
    for name, frame in (("plain", plain), ("given", given)):
        write_csv(tmp_path / f"{name}.csv", frame)
        style.save(bars(frame), tmp_path / f"{name}.svg")
    assert (tmp_path / "plain.csv").read_bytes() == (tmp_path / "given.csv").read_bytes()
    assert (tmp_path / "plain.svg").read_bytes() == (tmp_path / "given.svg").read_bytes()
    assert markdown(plain) == markdown(given)


def diamonds(fig):
    """What the diamonds of the two panels mark: (value, bar) each."""
    marked = []
    for axes in fig.axes:
        points = [line.get_xydata() for line in axes.lines if line.get_marker() == "D"]
        marked.append([tuple(p) for line in points for p in line if not np.isnan(p).any()])
    return marked


def test_bars_mark_published_averages_on_their_bars_and_say_so():
    fig = bars(summary(study(), published=OURS))
    left, right = diamonds(fig)
    # From top to bottom: weight_average, task_arithmetic, tsv.
    assert left == [(0.44, 0), (0.71, 2)]
    assert right == [(0.82, 2)]
    (legend,) = fig.legends
    assert "published for the same encoder" in legend.get_texts()[0].get_text()
    without = bars(summary(study()))
    assert diamonds(without) == [[], []]
    assert not without.legends
    assert not any("published" in text for text in texts(without))


@pytest.mark.parametrize("count", [1, 12])
def test_bars_with_published_averages_fit_their_canvas(count):
    names = [f"merger_{index}" for index in range(count)]
    fig = bars(summary(study(mergers=names), published=[figure(names[0])]), "demo")
    with mpl_style.context(style.STYLE, after_reset=True):
        box = fig.get_tightbbox()
    width, height = fig.get_size_inches()
    assert 0 < box.x0 < box.x1 < width
    assert 0 < box.y0 < box.y1 < height
