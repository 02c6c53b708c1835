"""Records as `stitchrl trust` makes them, written by hand: supported, not supported, not estimable, and beside an earlier policy."""

from __future__ import annotations

import copy
import math
from typing import Any

NAMES = {
    "estimable": "Value estimates",
    "difference": "Value estimates",
    "support": "Support",
    "weights": "Importance weights",
    "agreement": "Value estimates",
    "placebo": "Self-checks",
    "leave_one_logger_out": "Self-checks",
    "semi_synthetic": "Self-checks",
    "fqe_convergence": "Self-checks",
    "possible_values": "Value sanity",
    "behaviour_calibration": "Behaviour policy",
    "propensities": "Behaviour policy",
    "integrity": "Data",
    "leakage": "Leakage",
    "drift": "Support",
    "clock": "Data",
    "subgroups": "Risk",
    "confounding": "Hidden confounding",
    "selection": "Selection",
}


NO_TEST = "No test of these data can rule hidden confounding out."


def span(estimate: float, low: float, high: float) -> dict[str, Any]:
    return {"estimate": estimate, "low": low, "high": high, "level": 0.95}


def checks(**changed: tuple[str, str, float | None, float | None]) -> list[dict[str, Any]]:
    found = []
    for name, section in NAMES.items():
        status, words, value, limit = changed.get(name, ("pass", PASSED[name], None, None))
        found.append({"name": name, "section": section, "status": status, "words": words, "value": value, "limit": limit})
    return found


PASSED = {
    "estimable": "4 of 6 estimators pass their gates",
    "difference": "the policy is worth 0.036 [0.012, 0.061] more than the logged one",
    "support": "0.4 % of the policy's decisions have a logged probability below 1 %",
    "weights": "412 effective episodes of 1,600; the tail index is 0.31",
    "agreement": "the estimates lie within 0.9 of their pooled standard error",
    "placebo": "6 of 6 estimators contain the logged policy's measured value",
    "leave_one_logger_out": "the second logger's value is contained",
    "semi_synthetic": "the intervals hold in 94 % of 200 logs of a fitted model",
    "fqe_convergence": "the fitted value moved by 0.002 over the last tenth of its steps",
    "possible_values": "the policy's critic believes 0.86; no return can be above 1",
    "behaviour_calibration": "the expected calibration error is 0.8 %",
    "propensities": "20,412 logged probabilities are in (0, 1]",
    "integrity": "the log has no errors and no warnings",
    "leakage": "no column tells the action from after it",
    "drift": "the evaluation episodes cannot be told from the others (AUROC 0.51)",
    "clock": "every episode ends with the task",
    "subgroups": "none of 4 groups is harmed",
    "confounding": "the conclusion turns at a Γ of 1.42",
    "selection": "the policy was chosen without the environment, on other episodes",
}


def _estimate(
    name: str, interval: dict[str, Any] | None, reason: str | None = None, method: str = "BCa bootstrap over episodes"
) -> dict[str, Any]:
    return {
        "name": name,
        "value": None if interval is None else interval["estimate"],
        "interval": interval,
        "interval_method": method if interval else "",
        "reason": reason,
        "assumptions": ["no hidden confounding", "the log holds what the policy does"],
        "diagnostics": {"effective_episodes": 412.3} if interval else {},
    }


def example(episode: int, difference: float, length: int, policy_probability: float | None = 0.88) -> dict[str, Any]:
    return {
        "episode": episode,
        "length": length,
        "total": 1.0,
        "difference": difference,
        "steps": [
            {
                "step": 3 * k,
                "observation": 611 + k,
                "logged_action": 4,
                "policy_action": 12,
                "logged_probability": 0.31,
                "policy_probability": policy_probability,
                "probability": None if policy_probability is None else 0.0042,
                "difference": difference,
            }
            for k in range(2)
        ],
    }


def other_bounds() -> dict[str, Any]:
    """Of the logged value all six, by a declared range; of the weighted one what needs no bound of the weights."""
    rows: list[dict[str, Any]] = []
    for estimator, centre in (("logged", 0.812), ("is", 0.9)):
        for k, name in enumerate(("t", "bca", "percentile", "hoeffding", "bernstein", "hcope")):
            refused = estimator == "is" and name in ("hoeffding", "bernstein")
            one_sided = name == "hcope"
            interval: dict[str, Any] | None = span(centre, centre - 0.02 * (k + 1), centre + 0.02 * (k + 1))
            if interval is not None and one_sided:
                interval |= {"estimate": None, "high": None}
            rows.append(
                {
                    "estimator": estimator,
                    "name": name,
                    "interval": None if refused else interval,
                    "reason": "not claimed: no bound of a whole episode's weight is known" if refused else None,
                    "one_sided": one_sided,
                    "assumption": "many episodes",
                    "tested": "100 skewed returns",
                }
            )
    return {"return_range": {"low": 0.0, "high": 1.0, "source": "declared in the request"}, "largest_weight": None, "rows": rows}


def with_before() -> dict[str, Any]:
    """The supported policy beside the one it was before, worth less and refused by one estimator."""
    record, first = supported(), supported()
    first["policy"] |= {"name": "cql, seed 0, offline", "path": "runs/cql-before"}
    first["verdict"] |= {"word": "Supported with limits", "sentence": "These data do not speak against the policy."}
    first["numbers"] |= {"policy_value": span(0.82, 0.80, 0.84), "difference": span(0.008, -0.01, 0.026)}
    first["checks"] = checks(difference=("warn", "no difference is shown", -0.01, 0.0))
    first["estimates"][3] |= {"value": None, "interval": None, "reason": "not estimable: 8 effective episodes"}
    kept = ("policy", "verdict", "numbers", "checks", "estimates", "selection")
    differences = [
        {"name": e["name"], "interval": span(0.028, 0.011, 0.045), "reason": None} for e in record["estimates"] if e["interval"] is not None
    ]
    differences[3] |= {"interval": None, "reason": "not estimable before: 8 effective episodes"}
    record["before"] = {name: first[name] for name in kept} | {"estimator": "drl", "differences": differences}
    return record


def supported() -> dict[str, Any]:
    logged, policy = span(0.812, 0.793, 0.831), span(0.848, 0.826, 0.871)
    return {
        "format": 1,
        "verdict": {
            "word": "Supported",
            "exit_code": 0,
            "sentence": f"These data support the policy: {PASSED['difference']}, and no check speaks against it.",
            "would_change": ["new episodes on which a check fails: run this again when the log, the policy or where it is used changes"],
        },
        "numbers": {
            "behaviour_value": logged,
            "policy_value": policy,
            "effective_episodes": 412.3,
            "difference": span(0.036, 0.012, 0.061),
            "estimator": "drl",
        },
        "checks": checks(),
        "policy": {
            "name": "cql, seed 0",
            "algorithm": "cql",
            "seed": 0,
            "sampled": True,
            "path": "runs/cql-sepsis",
            "fingerprint": "9f2c" * 16,
        },
        "data": {
            "name": "icu-sepsis-clinician",
            "fingerprint": "41d0" * 16,
            "episodes": 2000,
            "steps": 20412,
            "evaluation_episodes": 1600,
            "discount": 0.99,
            "clock": "continues",
            "return_quantiles": [0.0, 1.0, 1.0, 1.0, 1.0],
            "length_quantiles": [1, 6, 9, 13, 44],
            "terminal_share": 1.0,
            "reward_range": [0.0, 1.0],
        },
        "behaviour": {
            "source": "logged probabilities",
            "ece": 0.008,
            "smallest": 0.0021,
            "near_deterministic": 0.03,
            "bins": [
                {"predicted": p, "observed": p + 0.02 * math.sin(9 * p), "count": int(4000 * (1.05 - p))}
                for p in (0.05, 0.15, 0.3, 0.5, 0.7, 0.9)
            ],
        },
        "support": {
            "below_1_percent": 0.004,
            "below_5_percent": 0.031,
            "observation_beyond": 0.012,
            "action_beyond": 0.019,
            "least": [
                {
                    "episode": 17 * k + 3,
                    "step": 2 * k,
                    "observation": 213 + k,
                    "logged_action": 4,
                    "policy_action": 11 + k % 3,
                    "probability": 0.0021 * (k + 1),
                    "distance": 0.4 / (k + 1),
                    "neighbours": [{"episode": 40 + k, "step": 3, "action": 4}, {"episode": 98 + k, "step": 0, "action": 6}],
                }
                for k in range(6)
            ],
            "drift": {
                "auroc": 0.512,
                "worst": [{"dimension": "lactate", "difference": 0.03, "p": 0.41}, {"dimension": "map", "difference": -0.01, "p": 0.77}],
            },
        },
        "weights": {"effective_sizes": [[t, 1600 * math.exp(-0.055 * t)] for t in range(44)], "largest_share": 0.011, "pareto_k": 0.31},
        "estimates": [
            _estimate("fqe", span(0.853, 0.837, 0.868), method="bootstrap over episodes, refitted"),
            _estimate("drl", policy),
            _estimate("wdr", span(0.845, 0.817, 0.872)),
            _estimate("wpdis", span(0.839, 0.794, 0.885)),
            _estimate("is", span(0.9, -0.4, 2.3)),
            _estimate("wis", None, "not estimable: 8.2 effective episodes of 1,600 at the horizon; at least 80 are needed"),
        ],
        "disagreement": 0.9,
        "other_bounds": other_bounds(),
        "self_checks": {
            "placebo": [
                {"name": name, "interval": span(0.812 + d, 0.79 + d, 0.834 + d), "truth": 0.812, "contains": True}
                for name, d in (("fqe", 0.008), ("drl", 0.001), ("wdr", 0.0), ("wpdis", 0.0))
            ],
            "leave_one_logger_out": [
                {"name": "drl", "logger": "arm B", "interval": span(0.79, 0.76, 0.82), "truth": 0.801, "contains": True}
            ],
            "semi_synthetic": {
                "logs": 200,
                "truth": 0.842,
                "rows": [
                    {"name": "drl", "bias": 0.001, "rmse": 0.012, "coverage": 0.94},
                    {"name": "fqe", "bias": 0.004, "rmse": 0.01, "coverage": 0.935},
                ],
            },
        },
        "sanity": {
            "highest_possible": 1.0,
            "lowest_possible": 0.0,
            "believed": 0.861,
            "q_logged": 0.83,
            "q_chosen": 0.858,
            "critic_spread": 0.012,
        },
        "risk": {
            "quantiles": {"0.25": span(0.9, 0.85, 0.92), "0.5": span(0.95, 0.94, 0.96), "0.75": span(0.97, 0.96, 0.97)},
            "cvar": {"alpha": 0.25, "interval": span(0.41, 0.35, 0.47)},
            "probability_worse": 0.002,
            "reason": None,
        },
        "subgroups": [
            {"column": "unit", "value": "surgical", "episodes": 611, "interval": span(0.041, 0.002, 0.08), "reason": None},
            {"column": "unit", "value": "medical", "episodes": 703, "interval": span(0.029, -0.008, 0.066), "reason": None},
            {"column": "unit", "value": "cardiac", "episodes": 259, "interval": span(0.03, -0.03, 0.09), "reason": None},
            {"column": "unit", "value": "neuro", "episodes": 27, "interval": None, "reason": "not estimable: 6.1 effective episodes"},
        ],
        "confounding": {
            "gamma_flips": 1.42,
            "curve": [[g / 10, 0.036 - 0.086 * (g / 10 - 1), 0.036 + 0.07 * (g / 10 - 1)] for g in range(10, 26)],
            "reason": None,
            "words": f"{NO_TEST} A cause that makes the weights wrong by a factor of 1.42 would turn the conclusion.",
        },
        "leakage": [],
        "selection": {"online_evaluations": 0, "words": "chosen by its last checkpoint, no online evaluation"},
        "actions": {
            "logged": [0.04 + 0.03 * math.sin(k) ** 2 for k in range(25)],
            "policy": [0.04 + 0.035 * math.cos(k) ** 3 for k in range(25)],
            "together": [[0.03 if i == j else 0.01 / 24 for j in range(25)] for i in range(25)],
        },
        "examples": {
            "measure": "probability that the policy does something else than was logged",
            "judged": 1600,
            "most": [example(7, 0.91, 19)],
            "least": [example(1204, 0.03, 2)],
        },
        "before": None,
        "reproducibility": {
            "command": "stitchrl trust runs/cql-sepsis --data icu-sepsis-clinician --sampled",
            "seed": 0,
            "version": "0.1.0",
            "python": "3.11.9",
            "numpy": "2.3.1",
            "torch": "2.13.0",
        },
    }


def not_supported() -> dict[str, Any]:
    """A deterministic policy of continuous actions, worse than its log, that believes what cannot be."""
    record = copy.deepcopy(supported())
    against = [
        "the policy is worth 118 [71, 166] less than the logged one",
        "31 % of the policy's decisions lie outside the logged actions",
        "the policy's critic believes 9,140; no return can be above 3,000",
    ]
    record["verdict"] = {
        "word": "Not supported",
        "exit_code": 3,
        "sentence": f"These data speak against using the policy: {'; '.join(against)}.",
        "would_change": [
            "a policy whose value is clearly not below the logged one's; more episodes make it clearer",
            "≈ 900 more episodes in which action 2 is above 0.4 when the speed is above 3",
            "a critic that believes only values that returns can reach: a more conservative training",
        ],
    }
    none = "not run"
    record["checks"] = checks(
        estimable=("warn", "1 of 6 estimators passes its gates", 1.0, 2.0),
        difference=("fail", against[0], -71.0, 0.0),
        support=("fail", against[1], 0.31, 0.2),
        weights=(none, "a deterministic policy of continuous actions has no density, so there are no weights", None, None),
        agreement=(none, "one estimator cannot disagree with itself", None, None),
        leave_one_logger_out=(none, "the log names no loggers; --loggers COLUMN declares them", None, None),
        semi_synthetic=(none, "left out by --quick", None, None),
        possible_values=("fail", against[2], 9140.0, 3000.0),
        leakage=("warn", "1 column tells the action from after it", 0.97, 0.9),
        propensities=(none, "the log has no probabilities; they were estimated", None, None),
        drift=("warn", "the evaluation episodes can be told from the others (AUROC 0.68)", 0.68, 0.6),
        clock=("warn", "22 % of the value may lie beyond the clock's cut", 0.22, 0.1),
        subgroups=(none, "no subgroup was named (--subgroups COLUMN)", None, None),
        confounding=(none, "no weights to bound", None, None),
        selection=("warn", "the best of 12 checkpoints by 600 online evaluations", 600.0, 0.0),
    )
    record["numbers"] |= {
        "behaviour_value": span(1412, 1370, 1453),
        "policy_value": span(1294, 1241, 1347),
        "effective_episodes": None,
        "difference": span(-118, -166, -71),
        "estimator": "fqe",
    }
    record["policy"] = {
        "name": "td3_bc, seed 2",
        "algorithm": "td3_bc",
        "seed": 2,
        "sampled": False,
        "path": "runs/td3",
        "fingerprint": None,
    }
    record["data"] |= {
        "name": "halfcheetah",
        "return_quantiles": [-312.5, 900.1, 1502.0, 2120.0, 2871.3],
        "reward_range": [-2.1, 7.4],
        "terminal_share": 0.0,
    }
    why = "not estimable: a deterministic policy of continuous actions has no density"
    record["estimates"] = [_estimate("fqe", span(1294, 1241, 1347))] + [
        _estimate(n, None, why) for n in ("drl", "wdr", "wpdis", "mwl", "model")
    ]
    record["behaviour"] = {
        "source": "conditional density, estimated out of fold",
        "ece": None,
        "bins": [],
        "smallest": None,
        "near_deterministic": None,
    }
    record["support"]["least"] = [
        {
            "episode": 12,
            "step": 441,
            "observation": [0.123456, -1.5, 3.25, 0.001, 12.0, -7.0, 0.5, 0.25],
            "logged_action": [0.1, -0.9, 0.33],
            "policy_action": [1.0, 1.0, -1.0],
            "probability": None,
            "distance": 3.4567,
            "neighbours": [{"episode": 3, "step": 12, "action": [0.2, -0.8, 0.3]}],
        }
    ]
    record["support"]["drift"] = {"auroc": 0.68, "worst": [{"dimension": 3, "difference": 0.61, "p": 0.0002}]}
    record["weights"] = {"effective_sizes": [], "largest_share": None, "pareto_k": None}
    record["disagreement"] = None
    record["self_checks"] = {
        "placebo": [
            {"name": "fqe", "interval": span(1440, 1390, 1490), "truth": 1412, "contains": True},
            {"name": "drl", "interval": None, "truth": 1412, "contains": None, "reason": why},
        ],
        "leave_one_logger_out": [],
        "semi_synthetic": None,
    }
    record["sanity"] = {
        "highest_possible": 3000.0,
        "lowest_possible": -900.0,
        "believed": 9140.0,
        "q_logged": 1490.0,
        "q_chosen": 9012.0,
        "critic_spread": 812.0,
    }
    record["risk"] = {"quantiles": {}, "cvar": None, "probability_worse": None, "reason": "not estimable: no weights"}
    record["subgroups"] = []
    record["confounding"] = {
        "gamma_flips": None,
        "curve": [],
        "reason": "not estimable: no weights to bound",
        "words": NO_TEST,
    }
    record["leakage"] = [
        {"kind": "predicts the action from after it", "column": "observation 7", "words": "AUROC 0.97 against 0.61 for the step before"}
    ]
    record["selection"] = {"online_evaluations": 600, "words": "the best of 12 checkpoints by online return"}
    record["actions"] = None
    continuous = example(12, 2.4, 1000, None)
    for step in continuous["steps"]:
        step |= {"observation": [0.1, -0.25, 3.0], "logged_action": [0.1, -0.9], "policy_action": [1.0, 1.0], "logged_probability": 1.37}
    record["examples"] = {"measure": "distance in standard deviations", "judged": 1600, "most": [continuous], "least": []}
    return record


def not_estimable() -> dict[str, Any]:
    """A greedy policy far from an exploring log."""
    record = copy.deepcopy(supported())
    why = "not estimable: 0 effective episodes of 100; at least 10 are needed"
    record["verdict"] = {
        "word": "Not estimable",
        "exit_code": 4,
        "sentence": "These data cannot tell what the policy is worth: no estimator passes its gates; difference was not checked (no estimates).",
        "would_change": [
            "more episodes in which the logged actions are the policy's, or a policy closer to the log",
            "the check difference, which was not run: no estimates",
        ],
    }
    record["checks"] = checks(
        estimable=("fail", "no estimator passes its gates", 0.0, 1.0),
        difference=("not run", "no estimates", None, None),
        support=("fail", "64 % of the policy's decisions have a logged probability below 1 %", 0.64, 0.2),
        weights=("fail", "0 effective episodes of 100", 0.0, 10.0),
        agreement=("not run", "no estimates to compare", None, None),
        subgroups=("not run", "no subgroup was named (--subgroups COLUMN)", None, None),
    )
    record["numbers"] = {
        "behaviour_value": span(0.09, 0.05, 0.14),
        "policy_value": None,
        "effective_episodes": 0.0,
        "difference": None,
        "estimator": None,
    }
    record["estimates"] = [_estimate(name, None, why) for name in ("fqe", "drl", "wdr", "wpdis", "is")]
    record["weights"] = {"effective_sizes": [[t, max(0.0, 100 - 30 * t)] for t in range(12)], "largest_share": None, "pareto_k": None}
    record["disagreement"] = None
    record["risk"] = {"quantiles": {}, "cvar": None, "probability_worse": None, "reason": why}
    record["subgroups"] = []
    record["actions"] = {"logged": [1 / 48] * 48, "policy": [0.0] * 40 + [0.125] * 8, "together": None}
    for row in record["other_bounds"]["rows"]:
        row |= {"interval": None, "reason": why} if row["estimator"] == "is" else {}
    record["other_bounds"]["return_range"] = None
    record["confounding"] = {
        "gamma_flips": None,
        "curve": [],
        "reason": why,
        "words": NO_TEST,
    }
    return record


RECORDS = {"supported": supported, "not supported": not_supported, "not estimable": not_estimable, "with before": with_before}
