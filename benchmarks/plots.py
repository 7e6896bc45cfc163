"""The plots of docs/benchmarks.md, drawn from `results/*.json`: no measuring. Needs matplotlib."""

from pathlib import Path

from benchmarks import figures

COLOURS = {
    "cpu": "#0b6e99",
    "cpu bf16": "#4fb0d0",
    "eager": "#4f9d69",
    "sLSTM layer": "#0b6e99",
    "LSTM layer": "#4fb0d0",
    "ours": "#0b6e99",
    "ours bf16": "#4fb0d0",
    "ours int8": "#9bd3e6",
    "nn.LSTM": "#e08e45",
    "xlstm": "#d1495b",
    "xlstm parallel": "#d1495b",
    "native_custbw": "#8d6a9f",
    "SDPA": "#e08e45",
    "torch": "#e08e45",
    "transformers": "#d1495b",
    "transformers xLSTM": "#d1495b",
    "transformers Llama": "#e08e45",
}
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "exgate",  # the same numbers give the same file
    "figure.facecolor": "white",
}


def draw(results: dict[str, dict], folder: Path, suffix: str = "svg") -> list[Path]:
    """All plots whose parts have been measured, as `folder/benchmarks-<name>.<suffix>`."""
    import matplotlib

    makers = {
        "cells": (("slstm", "mlstm", "channels"), _cells),
        "growth": (("steps",), _growth),
        "scaling": (("batch", "threads"), _scaling),
        "language-models": (("lm",), _language_models),
        "decode": (("decode",), _decode),
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with matplotlib.rc_context(STYLE):
        for name, (parts, make) in makers.items():
            if all(part in results for part in parts):
                figure = make(*(results[part] for part in parts))
                paths.append(folder / f"benchmarks-{name}.{suffix}")
                figure.savefig(paths[-1], metadata={"Date": None} if suffix == "svg" else None, dpi=110)
    return paths


def panels(rows: int, columns: int, height: float):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _cells(slstm: dict, mlstm: dict, channels: dict):
    """How many times as long each peer takes as the native cell, per case: bars from 1, logarithmic."""
    rows = [len(part["cases"]) for part in (slstm, mlstm, channels)]
    figure, axes = panels(3, 2, 2 + 0.42 * sum(rows))
    axes[0][0].get_gridspec().set_height_ratios(rows)
    for line, (part, label, peers) in enumerate(
        (
            (slstm, "sLSTM cell (H, B, T)", ("nn.LSTM", "xlstm", "eager")),
            (mlstm, "mLSTM (B, T, K=V)", ("native_custbw", "SDPA", "eager")),
            (channels, "by channel (B, T, D)", ("torch", "transformers", "eager")),
        )
    ):
        for column, (kind, words) in enumerate((("forward", "forward"), ("both", "forward and backward"))):
            ax = axes[line][column]
            _bars(ax, part["cases"], kind, peers)
            ax.set_title(f"{label}, {words}")
            ax.set_xlabel("times as long as exgate's native kernel")
            if column == 1:
                ax.set_yticklabels([])
                ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _bars(ax, cases: dict, kind: str, peers: tuple[str, ...]) -> None:
    width = 0.8 / len(peers)
    for number, peer in enumerate(peers):
        found = figures.ratios(cases, kind, "cpu", peer)
        for row, case in enumerate(cases):
            if case not in found:
                continue
            y = row + (number - (len(peers) - 1) / 2) * width
            label = peer if row == next(r for r, c in enumerate(cases) if c in found) else None
            ax.barh(y, found[case] - 1, left=1, height=0.9 * width, color=COLOURS[peer], label=label)
            text = f"{found[case]:.1f}" if found[case] < 10 else f"{found[case]:.0f}"
            place = {"xytext": (3, 0), "textcoords": "offset points", "va": "center", "fontsize": 7}
            ax.annotate(text, (found[case], y), color="#444444", **place)
    ax.set_xscale("log")
    ax.axvline(1, color="black", linewidth=1)
    ax.set_yticks(range(len(cases)), list(cases))
    ax.set_ylim(len(cases) - 0.5, -0.5)
    low, high = ax.get_xlim()
    ax.set_xlim(min(low, 0.9), high * 1.5)
    ticks = (1, 2, 5, 10, 20, 50) if high < 80 else (1, 10, 100, 1000)
    ax.set_xticks([tick for tick in ticks if tick < high * 1.5])
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    ax.minorticks_off()


def _growth(part: dict):
    """Time and memory over T, both axes logarithmic, with a line of slope 1 for the eye."""
    figure, axes = panels(2, 2, 7)
    for column, (cell, found) in enumerate(part["cells"].items()):
        title = {"sLSTM": "sLSTM (H=256, B=8)", "mLSTM": "mLSTM (B=1, K=V=128)"}[cell]
        for row, (unit, words) in enumerate(
            (("milliseconds", "forward and backward (ms)"), ("megabytes", "peak memory (MB)"))
        ):
            ax = axes[row][column]
            for name, one in found.items():
                if unit in one:
                    _line(ax, name, one["T"], one[unit])
            ax.set_title(title)
            ax.set_xlabel("steps T")
            ax.set_ylabel(words)
            both_logarithmic(ax, sorted({size for one in found.values() for size in one["T"]}))
            first = found["cpu"]
            if unit in first and len(first["T"]) > 1:
                x = [first["T"][0], first["T"][-1]]
                y = [first[unit][-1] * size / x[1] / 2 for size in x]
                ax.plot(x, y, color="#999999", linewidth=0.8, linestyle=":", zorder=0)
                place = {"xytext": (14, 0), "textcoords": "offset points", "fontsize": 8}
                ax.annotate("slope 1", (x[0], y[0]), color="#777777", **place)
            ax.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def _line(ax, name: str, x: list[float], y: list[float]) -> None:
    ax.plot(x, y, marker="o", markersize=3.5, linewidth=1.6, color=COLOURS[name], label=name)


def both_logarithmic(ax, sizes: list[int]) -> None:
    from matplotlib.ticker import LogLocator

    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    low, high = ax.get_ylim()
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,), numticks=20))
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    ax.minorticks_off()
    ax.grid(alpha=0.25)


def _scaling(batch: dict, threads: dict):
    """Time per row over the batch, and two threads against one."""
    figure, axes = panels(1, 3, 3.6)
    for ax, (cell, found) in zip(axes[0], batch["cells"].items(), strict=False):
        for name, one in found.items():
            _line(ax, name, one["B"], [span / rows for span, rows in zip(one["milliseconds"], one["B"], strict=True)])
        ax.set_title({"sLSTM": "sLSTM (H=256, T=256)", "mLSTM": "mLSTM (T=1024, K=V=128)"}[cell])
        ax.set_xlabel("batch B")
        ax.set_ylabel("forward and backward, ms per row")
        both_logarithmic(ax, sorted({size for one in found.values() for size in one["B"]}))
        ax.legend(frameon=False, fontsize=9)
    ax = axes[0][2]
    cases = list(threads["cases"])
    for offset, (kind, words, colour) in enumerate(
        (("forward", "forward", COLOURS["cpu"]), ("both", "forward and backward", COLOURS["cpu bf16"]))
    ):
        gains = [threads["cases"][case][kind]["1"] / threads["cases"][case][kind]["2"] for case in cases]
        ax.barh([row + 0.4 * offset - 0.2 for row in range(len(cases))], gains, height=0.36, color=colour, label=words)
    ax.axvline(2, color="black", linewidth=1)
    ax.set_yticks(range(len(cases)), [case.replace(" ", "\n", 1) for case in cases], fontsize=8)
    ax.set_ylim(len(cases) - 0.5, -0.5)
    ax.set_title("two threads / one")
    ax.set_xlabel("times as fast (limit 2)")
    ax.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.2))
    return figure


def _language_models(part: dict):
    """Tokens per second of each model in training and in prefill."""
    figure, axes = panels(1, 2, 3.6)
    names = list(part["parameters"])
    for ax, what in zip(axes[0], ("training", "prefill"), strict=True):
        cases = [case for case in part["cases"] if case.startswith(what)]
        rates = {
            name: [1e3 * part["cases"][c]["tokens"] / part["cases"][c]["spans"][name]["median"] for c in cases]
            for name in names
        }
        _columns(ax, [case.removeprefix(f"{what}, ") for case in cases], rates, "{:.0f}")
        ax.set_title(f"{what}, 34 M parameters")
        ax.set_ylabel("tokens per second")
    figure.legend(*axes[0][0].get_legend_handles_labels(), frameon=False, ncols=len(names), loc="outside lower center")
    return figure


def _columns(ax, cases: list[str], values: dict[str, list[float]], form: str) -> None:
    width = 0.85 / len(values)
    for number, (name, heights) in enumerate(values.items()):
        x = [row + (number - (len(values) - 1) / 2) * width for row in range(len(cases))]
        bars = ax.bar(x, heights, width=0.92 * width, color=COLOURS[name], label=name)
        ax.bar_label(bars, [form.format(height) for height in heights], fontsize=7, padding=1, color="#444444")
    ax.set_xticks(range(len(cases)), cases)


def _decode(part: dict):
    """Milliseconds per token, and a line where reading memory alone would end."""
    cases = list(part["cases"])
    sizes = list(dict.fromkeys(case.split(",")[0] for case in cases))
    figure, axes = panels(1, len(sizes), 3.8)
    axes[0][0].get_gridspec().set_width_ratios([max(1.7, sum(c.startswith(s) for c in cases)) for s in sizes])
    names = list(part["cases"][cases[0]])
    for ax, size in zip(axes[0], sizes, strict=True):
        mine = [case for case in cases if case.startswith(f"{size},")]
        values = {name: [part["cases"][case][name]["median"] for case in mine] for name in names}
        _columns(ax, [case.split(", ", 1)[1].replace(", ", "\n") for case in mine], values, "{:.1f}")
        width = 0.85 / len(names)
        for row, case in enumerate(mine):
            for number, name in enumerate(names):
                if name != "transformers Llama":
                    x = row + (number - (len(names) - 1) / 2) * width
                    y = figures.least(part, case, name)
                    ax.plot([x - width / 2, x + width / 2], [y, y], color="black", linewidth=1.5)
        ax.plot([], [], color="black", linewidth=1.5, label="memory's limit")
        ax.set_title(f"{size}: {part['models'][size]['weight_bytes']['ours'] / 4e6:.0f} M weights a token")
        ax.set_ylabel("ms per token")
    place = {"loc": "outside lower center", "ncols": len(names) + 1, "columnspacing": 1.2, "fontsize": 9}
    figure.legend(*axes[0][0].get_legend_handles_labels(), frameon=False, **place)
    return figure
