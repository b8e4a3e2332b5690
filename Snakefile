# mergeloom: fine-tune, merge and measure models; every artifact is the output of one rule.
#
#   snakemake                                                    tables and figures of the configuration
#   snakemake results/ViT-Nano/finetuned/demo8/isotropic.json    one result and what it needs
#   snakemake -n …                                               what would run, and why

from snakemake.utils import min_version

min_version("9.27")


configfile: f"{workflow.basedir}/config/config.yaml"


include: "rules/common/presets.smk"
include: "rules/common/resources.smk"
include: "rules/common/tasks.smk"
include: "rules/common/studies.smk"
include: "rules/common/encoders.smk"
include: "rules/common/texts.smk"
include: "rules/common/experts.smk"
include: "rules/common/mergers.smk"
include: "rules/common/features.smk"
include: "rules/common/adaptive.smk"
include: "rules/common/reports.smk"
include: "rules/common/conditions.smk"
include: "rules/common/adaptive_reports.smk"


pathvars:
    data=ROOTS["data"],
    models=ROOTS["models"],
    results=ROOTS["results"],
    cache=ROOTS["cache"],


wildcard_constraints:
    encoder=NAME,
    experts=NAME,
    benchmark=NAME,
    merger=NAME,
    task=NAME,
    sweep=NAME,
    study=NAME,
    size="[0-9]+",
    other=NAME,
    corruption="[a-z_]+",
    severity="[0-9]*",
    extractor=NAME,
    adapter=NAME,
    source=NAME,


include: "rules/lock.smk"
include: "rules/data.smk"
include: "rules/text.smk"
include: "rules/encoders.smk"
include: "rules/training.smk"
include: "rules/experts.smk"
include: "rules/vectors.smk"
include: "rules/features.smk"
include: "rules/statistics.smk"
include: "rules/merging.smk"
include: "rules/evaluation.smk"
include: "rules/measures.smk"
include: "rules/exports.smk"
include: "rules/diagnosis.smk"
include: "rules/inspection.smk"
include: "rules/robustness.smk"
include: "rules/conditions.smk"
include: "rules/adaptive.smk"
include: "rules/adaptive_report.smk"
include: "rules/report.smk"


report: "config/report/workflow.rst"


localrules:
    all,
    tables,
    figures,
    results,
    diagnoses,
    inspections,
    robustness,
    checkpoints,
    vectors,


rule tables:
    input:
        of_studies("<results>/{encoder}/{experts}/{benchmark}/summary.csv"),
    message:
        "Summary tables"


rule figures:
    input:
        of_studies(
            "<results>/{encoder}/{experts}/{benchmark}/{figure}.png", figure=FIGURES
        ),
        of_studies(
            "<results>/{encoder}/{experts}/{benchmark}/learning_curves.png",
            experts=[e for e in config["experts"] if e in TRAINED],
        ),
    message:
        "Figures"


rule results:
    input:
        of_studies(
            "<results>/{encoder}/{experts}/{benchmark}/{merger}.json",
            merger=[*config["mergers"], FINETUNED],
        ),
    message:
        "Results of all mergers"


rule diagnoses:
    input:
        of_studies(
            "<results>/{encoder}/{experts}/{benchmark}/diagnosis/{merger}.png",
            merger=config["mergers"],
        ),
    message:
        "Diagnoses of all mergers"


rule inspections:
    input:
        of_studies(
            "<results>/{encoder}/{experts}/{benchmark}/{kind}/{merger}.png",
            kind=["confusion", "calibration"],
            merger=ALL_ROWS,
        ),
    message:
        "Confusion matrices and calibration of all mergers"


rule robustness:
    input:
        of_studies("<results>/{encoder}/{experts}/{benchmark}/corrupted/summary.csv"),
    message:
        "Accuracy of all mergers on corrupted images"


rule checkpoints:
    input:
        of_tasks("<models>/{encoder}/{experts}/{task}/checkpoint.safetensors"),
    message:
        "Fine-tuned checkpoints"


rule vectors:
    input:
        of_tasks("<models>/{encoder}/{experts}/{task}/task_vector.safetensors"),
        of_tasks("<models>/{encoder}/{experts}/{task}/svd.safetensors"),
    message:
        "Task vectors and their SVD caches"


rule all:
    default_target: True
    input:
        rules.tables.input,
        rules.figures.input,
        wandb_logs,
    message:
        "Tables and figures of the configuration"


# A sweep of training conditions is a target of its name, and a study of adapters.
TARGETS = {
    "conditions": (files_of_sweep, "Tables and figures of the conditions"),
    "adaptive": (files_of_adaptive, "Tables and figures of the study of adapters"),
}
for kind, (files_of_target, words) in TARGETS.items():
    for target in PRESETS[kind]:
        explained(check_target)(kind, target, [rule.name for rule in workflow.rules])

        rule:
            name:
                target
            input:
                files_of_target(target),
            localrule: True
            message:
                f"{words} {target}"
