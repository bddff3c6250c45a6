"""Every figure of the course, in one style. Each function takes plain numbers and returns the Figure; none shows it.

    fig = training_curves(history, beta=0.1)
    lesson.show(fig, alt="Four panels ...")     # in a notebook
    save(fig, "runs/dpo.png")                   # in a script

Chosen is a blue solid line with circles, rejected an orange dashed line with crosses, the reference a grey dotted line:
colour, line and marker each tell them apart, so the figures can be read without colour. A title states the finding, and
the numbers in it come from the data.
"""

from prefcourse.plots.ab_tests import coverage, forest, power_curve
from prefcourse.plots.beyond import (
    averages_at_kl,
    feedback_effects,
    online_frontier,
    price_by_third,
    sampler_regret,
    what_labels_ask,
)
from prefcourse.plots.comparison import budget, cost_and_quality, memory_bars, regret_by_pairs, wrong_settings
from prefcourse.plots.data import (
    agreement_and_accuracy,
    diversity_by_temperature,
    majority_by_panel,
    noise_and_win_rate,
    pairs_needed,
    panel_forecast,
    seed_means,
)
from prefcourse.plots.failures import displacement, log_ratio_paths, paths_by_step, price_of_fixes, proxy_and_gold
from prefcourse.plots.frontier import beta_paths, frontier_panels, gains_at_kl, kl_against_beta
from prefcourse.plots.objective import estimator_spread, price_of_a_nat, simplex_landscapes
from prefcourse.plots.online import exact_curves
from prefcourse.plots.quality import quality_report
from prefcourse.plots.rewards import calibration, reward_accuracy, win_probabilities, word_weights
from prefcourse.plots.rlhf import climb, clip_and_group, over_optimisation, variance_by_offset
from prefcourse.plots.runs import compare_runs, reward_against_kl, reward_shift, training_curves
from prefcourse.plots.style import (
    AMBER,
    BLUE,
    CHOSEN,
    FAINT,
    GREEN,
    GREY,
    INK,
    KL_LABEL,
    METHODS,
    ORANGE,
    PURPLE,
    REFERENCE,
    REJECTED,
    SKY,
    STYLE,
    save,
    smoothed,
    title_of,
    use_style,
)
from prefcourse.plots.theory import (
    distance_by_step,
    kl_by_step,
    logps_by_step,
    loss_and_slope,
    optimum_against_beta,
    samples_for_z,
    under_the_line,
)
from prefcourse.plots.tokens import batch_tokens, coloured_tokens, next_token_bars
from prefcourse.plots.variants import family_of_losses, loss_shapes, noise_robustness
from prefcourse.plots.verifiable import labels_of, pass_curves
