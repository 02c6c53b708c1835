"""What PyPI's obp says of a bandit log: run by open_bandit.py in an environment that has it, apart from ours.

    python obp_estimates.py prior CAMPAIGN                 → {"table": [3][items]}: Thompson sampling by Monte Carlo from its prior
    python obp_estimates.py estimates LOG.npz SEED         → {"estimates": {name: {value, low, high}}}

LOG.npz: context [N, C], action, position (from 0), reward, propensity [N], policy [positions, items].
"""

import json
import platform
import sys
import warnings

import numpy as np

POSITIONS, DRAWS = 3, 100_000


def prior(campaign):
    """Returns what obp takes for the Bernoulli Thompson-sampling policy: its own simulation from the parameters that it ships."""
    from obp.policy import BernoulliTS

    policy = BernoulliTS(n_actions=46, len_list=POSITIONS, is_zozotown_prior=True, campaign=campaign, random_state=12345)
    table = policy.compute_batch_action_dist(n_rounds=1, n_sim=DRAWS)[0].T  # [positions, items]
    return {"table": [[round(float(x), 6) for x in row] for row in table], "draws": DRAWS, **versions()}


def estimates(path, seed):
    """Returns obp's estimators with its own bootstrap intervals; DM and DR use a logistic regression, cross-fitted in 3 folds."""
    import obp.ope as ope
    from sklearn.linear_model import LogisticRegression

    with np.load(path) as log:
        d = {name: log[name] for name in log.files}
    items = d["policy"].shape[1]
    distribution = np.repeat(d["policy"].T[None], len(d["action"]), 0)  # [N, items, positions]
    model = ope.RegressionModel(n_actions=items, len_list=POSITIONS, base_model=LogisticRegression(C=100, max_iter=1000))
    shared = {"action": d["action"], "reward": d["reward"], "position": d["position"], "pscore": d["propensity"]}
    q = model.fit_predict(context=d["context"], n_folds=3, random_state=seed, **shared)
    chosen = {
        "ipw": (ope.InverseProbabilityWeighting(), {}),
        "snipw": (ope.SelfNormalizedInverseProbabilityWeighting(), {}),
        "dm": (ope.DirectMethod(), {"estimated_rewards_by_reg_model": q}),
        "dr": (ope.DoublyRobust(), {"estimated_rewards_by_reg_model": q}),
        "sndr": (ope.SelfNormalizedDoublyRobust(), {"estimated_rewards_by_reg_model": q}),
    }
    found = {}
    for name, (estimator, more) in chosen.items():
        given = {**shared, "action_dist": distribution, **more}
        if name == "dm":
            given = {"position": shared["position"], "action_dist": distribution, **more}
        interval = estimator.estimate_interval(alpha=0.05, n_bootstrap_samples=2000, random_state=seed, **given)
        found[name] = {
            "value": float(estimator.estimate_policy_value(**given)),
            "low": float(interval["95.0% CI (lower)"]),
            "high": float(interval["95.0% CI (upper)"]),
        }
    return {"estimates": found, **versions()}


def versions():
    """Returns what ran."""
    import obp
    import sklearn

    return {"obp": obp.__version__, "scikit-learn": sklearn.__version__, "numpy": np.__version__, "python": platform.python_version()}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    answer = prior(sys.argv[2]) if sys.argv[1] == "prior" else estimates(sys.argv[2], int(sys.argv[3]))
    print(json.dumps(answer))
