"""Tables for people: aligned markdown, so that what a command prints can stand in a README."""

from collections.abc import Mapping, Sequence

from training.scoring.evaluate import DayMetrics


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """An aligned markdown table; the first column is left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in [head, *body]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *rest]) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([line(head), rule, *map(line, body)])


def metrics(by_model: Mapping[str, Mapping[str, DayMetrics]]) -> str:
    """Metrics of each model on each day, a row each; rates are per pod-day."""
    head = ["day, model", "events", "recall", "AUC-PR", "VUS-PR", "false samples", "false episodes", "delay min", "ECE"]
    head += ["forecast MAE", "naive MAE", "median MAE"]
    body = []
    days = next(iter(by_model.values()))
    for day in days:
        for model, found in by_model.items():
            m = found[day]
            body.append(
                [
                    f"{day}, {model}",
                    str(m.events),
                    f"{m.event_recall:.2f}",
                    f"{m.auc_pr:.3f}",
                    f"{m.vus_pr:.3f}",
                    f"{m.false_samples_per_pod_day:.2f}",
                    f"{m.false_episodes_per_pod_day:.2f}",
                    "-" if m.median_delay_minutes is None else f"{m.median_delay_minutes:.0f}",
                    f"{m.calibration_error:.4f}",
                    f"{m.forecast_mae:.3f}",
                    f"{m.forecast_mae_naive:.3f}",
                    f"{m.forecast_mae_baseline:.3f}",
                ]
            )
    return markdown(head, body)
