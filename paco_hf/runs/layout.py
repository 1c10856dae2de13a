"""The names of the files in a run folder."""

METRICS_NAME, RECIPE_NAME, RUN_NAME, CONVERSION_NAME = "metrics.json", "recipe.yaml", "run.json", "conversion.json"
DATA_NAME = "data.json"  # identifies the images that a run was started with
CARD_NAME, RESULTS_NAME = "README.md", ".eval_results/paco_hf.yaml"
STAGING, SET_ASIDE, STATE_NAME = "checkpoint.partial", ".set-aside", "trainer_state.json"
LOG_NAME, ADDED_NAME = "log.jsonl", "added_classes.json"
SEEDS_NAME, COMPARISON_NAME = "seeds.json", "comparison.html"  # of `train --seeds`, beside the folders of its runs

# The figures of a run, drawn for its card, and those of an evaluation, beside its report.
COUNTS_NAME, CURVE_NAME, FREQUENCY_NAME = "class_counts.png", "training_curve.png", "accuracy_by_frequency.png"
RELIABILITY_NAME, PRIOR_NAME = "reliability.png", "prior.png"
RISK_NAME = "risk_coverage.png"
FIGURE_NAMES = (COUNTS_NAME, CURVE_NAME, FREQUENCY_NAME, RELIABILITY_NAME, PRIOR_NAME, RISK_NAME)

# Of `paco-hf evaluate` on the test split, and on the validation split, which must not replace the former.
EVALUATION_FOLDER, VALIDATION_FOLDER = "evaluation", "evaluation-validation"
EVALUATION_NAME, REPORT_NAME, PREDICTIONS_NAME = "results.json", "report.html", "predictions.parquet"
HELD_OUT_NAME = "held_out.safetensors"  # logits of the images that cross-validation held out
EVALUATION_FILES = (EVALUATION_NAME, REPORT_NAME, PREDICTIONS_NAME, HELD_OUT_NAME, *FIGURE_NAMES)

# What a run writes into its folder, besides checkpoints, adapter and evaluations.
RUN_FILES = (
    *(METRICS_NAME, RECIPE_NAME, RUN_NAME, DATA_NAME, CARD_NAME, RESULTS_NAME, LOG_NAME, ADDED_NAME, *FIGURE_NAMES),
    *("config.json", "model.safetensors", "preprocessor_config.json", "selected-*.safetensors"),
)

# What is in a checkpoint, besides adapter and code. The state is the last: with it a folder is known as a checkpoint.
CHECKPOINT_FILES = (
    *("config.json", "model.safetensors", "preprocessor_config.json", "training_args.bin", "optimizer.pt"),
    *("scheduler.pt", "scaler.pt", "rng_state*.pth", "paco_training_state.safetensors", STATE_NAME),
)
