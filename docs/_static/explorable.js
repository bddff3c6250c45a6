// What β buys: four replies, their rewards and β by sliders; π*, Z, DPO's path and the price of KL, without a kernel.
//
//   <div class="prefcourse-explorable" data-beta="0.5" data-rewards="-1,0,1,2"></div>
//   <script src="_static/explorable.js"></script>
//
// The first half is the mathematics: pure functions of arrays, in nats, the same as in prefcourse/tabular.py to 1e-12
// (tests/test_explorable.py compares them). The second half draws, and computes nothing of its own. Looks stand beside
// this file in explorable.css, which is loaded from there. No library, no network: it works from a file on disk.
(function () {
  "use strict";

  // ------------------------------------------------------------------------------------------- the mathematics

  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const sigmoid = (x) => (x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x)));
  const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))); // -log σ(-x)

  /** log Σ exp(x): the largest is taken out first, so that nothing overflows. */
  function logSumExp(values) {
    const largest = Math.max(...values);
    return largest + Math.log(sum(values.map((value) => Math.exp(value - largest))));
  }

  const softmax = (logits) => logits.map((logit) => Math.exp(logit - logSumExp(logits)));

  /** log Z = log Σ_y π_ref(y) exp(r(y)/β). */
  const logZ = (reference, reward, beta) => logSumExp(reference.map((p, y) => Math.log(p) + reward[y] / beta));

  /** π*(y) = π_ref(y) exp(r(y)/β) / Z (Rafailov et al. 2023, Eq. 4). */
  const optimalPolicy = (reference, reward, beta) => softmax(reference.map((p, y) => Math.log(p) + reward[y] / beta));

  /** E[r] under a policy. */
  const expectedReward = (policy, reward) => sum(policy.map((p, y) => p * reward[y]));

  /** KL(π‖π_ref); a reply that the policy never gives costs nothing. */
  const kl = (policy, reference) => sum(policy.map((p, y) => (p > 0 ? p * Math.log(p / reference[y]) : 0)));

  /** J(π) = E[r] - β KL(π‖π_ref) (Rafailov et al. 2023, Eq. 3). */
  const objective = (policy, reference, reward, beta) => expectedReward(policy, reward) - beta * kl(policy, reference);

  /** All pairs of replies that the reference gives, each once. */
  function pairsOf(reference) {
    const alive = reference.flatMap((p, y) => (p > 0 ? [y] : []));
    return alive.flatMap((i, k) => alive.slice(k + 1).map((j) => [i, j]));
  }

  /** With steps of this size the margins β h take the same path at every β. It is below one over the curvature. */
  const stepSize = (beta) => 1.5 / beta ** 2;

  /** DPO's expected loss, the mean over all pairs, with soft labels P(i beats j) = σ(r_i - r_j). */
  function dpoLoss(policy, reference, reward, beta) {
    const pairs = pairsOf(reference);
    const ratio = policy.map((p, y) => Math.log(p / reference[y]));
    const losses = pairs.map(([i, j]) => {
      const [label, margin] = [sigmoid(reward[i] - reward[j]), beta * (ratio[i] - ratio[j])];
      return label * softplus(-margin) + (1 - label) * softplus(margin);
    });
    return sum(losses) / pairs.length;
  }

  /** Gradient descent on that loss from π_ref, in the logits of a softmax policy: steps + 1 policies. */
  function dpoPath(reference, reward, beta, steps, size = stepSize(beta)) {
    const start = reference.map(Math.log);
    const pairs = pairsOf(reference);
    const [logits, path] = [[...start], [reference]];
    for (let step = 0; step < steps; step++) {
      const gradient = reference.map(() => 0);
      for (const [i, j] of pairs) {
        const margin = beta * (logits[i] - start[i] - (logits[j] - start[j]));
        const pull = (beta * (sigmoid(margin) - sigmoid(reward[i] - reward[j]))) / pairs.length; // prediction - label
        gradient[i] += pull;
        gradient[j] -= pull;
      }
      gradient.forEach((g, y) => (logits[y] -= size * g));
      path.push(softmax(logits));
    }
    return path;
  }

  /** The best policies of all β, from π_ref (β = ∞) to the best replies alone (β = 0): points [KL, E[r]]. */
  function frontier(reference, reward, points = 160) {
    const curve = [[0, expectedReward(reference, reward)]];
    for (let k = 1; k < points; k++) {
      const policy = optimalPolicy(reference, reward, (points - k) / k);
      curve.push([kl(policy, reference), expectedReward(policy, reward)]);
    }
    const top = Math.max(...reward.filter((_, y) => reference[y] > 0));
    curve.push([-Math.log(sum(reference.filter((p, y) => reward[y] === top))), top]);
    return curve;
  }

  // ----------------------------------------------------------------------------------------------- the words

  const TITLE = " “The film was …”: four replies, and the best policy for them, exactly.";
  const REPLIES = ["dull", "fine", "good", "superb"];
  const REFERENCES = [
    ["mostly dull", [0.4, 0.3, 0.2, 0.1]], ["even", [0.25, 0.25, 0.25, 0.25]],
    ["superb is rare", [0.6, 0.3, 0.09, 0.01]], ["superb never comes", [0.5, 0.3, 0.2, 0]],
  ];
  const BETAS = Array.from({ length: 41 }, (_, k) => 10 ** ((k - 20) / 20)); // 0.1 to 10, in equal ratios
  const STEPS = [0, 1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256, 362, 512, 724, 1024];

  const fixed = (x, digits = 2) => x.toFixed(digits).replace(/^-(0\.?0*)$/, "$1").replace("-", "−");
  const percent = (p) => `${fixed(100 * p, 1)} %`;
  const counted = (steps) => `${steps} ${steps === 1 ? "step" : "steps"}`;
  const signed = (x, digits = 1) => (Number(x.toFixed(digits)) > 0 ? "+" : "") + fixed(x, digits);

  /** Three digits that count; very large and very small ones as powers of ten. */
  function short(x) {
    const plain = x === 0 || (Math.abs(x) >= 0.001 && Math.abs(x) < 1e4);
    if (plain) return String(Number(x.toPrecision(3))).replace("-", "−");
    const [digits, power] = x.toExponential(2).split("e");
    const raised = [...String(Number(power))].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(c)])).join("");
    return `${digits} × 10${raised}`;
  }

  /** Everything that is shown, from what the reader chose; `log` is log Z, `top` is J* = β log Z. */
  function facts({ reference, reward, beta, steps }) {
    const best = optimalPolicy(reference, reward, beta);
    const path = dpoPath(reference, reward, beta, steps);
    const policy = path[steps];
    const [before, after] = [reference, best].map((from) => expectedReward(from, reward));
    const [log, cost] = [logZ(reference, reward, beta), kl(best, reference)];
    const [loss, reached] = [dpoLoss, objective].map((of) => of(policy, reference, reward, beta));
    const gap = Math.max(...best.map((p, y) => Math.abs(p - policy[y])));
    const chosen = { reference, reward, beta, steps };
    return { ...chosen, best, path, policy, before, after, cost, loss, reached, gap, log, top: beta * log };
  }

  /** True sentences about them, for the page and for who hears it: what π* buys, whom it moves, where DPO stands. */
  function sentences(f) {
    const alive = f.reward.filter((_, y) => f.reference[y] > 0);
    const said = [];
    if (Math.max(...alive) === Math.min(...alive)) {
      said.push("All replies that come are worth the same: there is nothing to buy, and π* is π_ref.");
    } else {
      const moved = f.best.map((p, y) => p - f.reference[y]);
      const most = Math.max(...moved);
      const winners = REPLIES.filter((_, y) => most - moved[y] < 1e-9).map((name) => `“${name}”`);
      const [from, to] = [f.reference, f.best].map((policy) => percent(policy[moved.indexOf(most)]));
      said.push(
        `At β = ${short(f.beta)}, π* pays ${fixed(f.cost)} nats of KL for ${fixed(f.after - f.before)} nats more ` +
          `reward than π_ref has. The KL costs β times that, ${fixed(f.beta * f.cost)}: ` +
          `${fixed(f.top - f.before)} is left.`,
        `${winners.join(" and ")} ${winners.length > 1 ? "gain most, each" : "gains most,"} from ${from} to ${to}.`,
      );
    }
    if (!f.steps) said.push("DPO has not begun: it stands at π_ref.");
    else if (f.gap < 1e-6) said.push(`After ${counted(f.steps)} DPO stands on π*: they differ by less than 0.000001.`);
    else said.push(`After ${counted(f.steps)} of DPO the largest difference from π* is ${short(f.gap)}.`);
    return said;
  }

  const theory = { logZ, optimalPolicy, expectedReward, kl, objective, stepSize, dpoLoss, dpoPath, frontier };
  if (typeof module !== "undefined") module.exports = { ...theory, facts, sentences, short, BETAS, STEPS, REFERENCES };
  if (typeof document === "undefined") return;

  // --------------------------------------------------------------------------------------------- the picture
  const SVG = "http://www.w3.org/2000/svg";
  const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [420, 330, 46, 12, 30, 44];

  /** An element of HTML, or of SVG where `space` says so. */
  function make(name, attributes = {}, children = [], space = null) {
    const made = space ? document.createElementNS(space, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...[children].flat());
    return made;
  }
  const draw = (name, attributes, children) => make(name, attributes, children, SVG);

  /** The words with each _ref set low, in HTML or in SVG. */
  const typeset = (words, svg = false) =>
    words.split("_ref").flatMap((part, k) => {
      if (!k) return [part];
      if (!svg) return [make("sub", {}, "ref"), part];
      return [draw("tspan", { dy: 4, class: "sub" }, "ref"), draw("tspan", { dy: -4 }, part)];
    });

  /** Round numbers from low to high, about `count` of them. */
  function ticks(low, high, count) {
    const rough = (high - low) / count;
    const unit = 10 ** Math.floor(Math.log10(rough));
    const step = unit * [1, 2, 5, 10].find((factor) => factor * unit >= rough);
    const [first, last] = [Math.ceil(low / step - 1e-9), Math.floor(high / step + 1e-9)];
    return Array.from({ length: last - first + 1 }, (_, k) => (first + k) * step);
  }

  /** E[r] against KL: the best policies of all β, the line of slope β that touches them at π*, and DPO's path. */
  function plane(f) {
    const curve = frontier(f.reference, f.reward);
    const walked = f.path.map((policy) => [kl(policy, f.reference), expectedReward(policy, f.reward)]);
    const far = Math.max(...curve.map((p) => p[0]), 0.5) * 1.06;
    const heights = [...curve, ...walked, [0, f.top]].map((p) => p[1]);
    const room = Math.max(0.12 * (Math.max(...heights) - Math.min(...heights)), 0.1);
    const [low, high] = [Math.min(...heights) - room, Math.max(...heights) + room];
    const x = (value) => LEFT + (value / far) * (WIDTH - LEFT - RIGHT);
    const y = (value) => HEIGHT - BOTTOM - ((value - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
    const place = (p) => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`;
    const line = (points, kind) => draw("polyline", { class: kind, points: points.map(place).join(" ") });
    const text = (at, kind, words, anchor = "start") =>
      draw("text", { x: at[0], y: at[1], class: kind, "text-anchor": anchor }, typeset(words, true));
    const end = Math.min(far, (high - f.top) / f.beta);
    const [start, star] = [[x(0), y(f.before)], [x(f.cost), y(f.after)]];
    const now = [x(walked[f.steps][0]), y(walked[f.steps][1])];
    const crowded = Math.hypot(star[0] - start[0], star[1] - start[1]) < 44;
    return [
      ...ticks(0, far, 5).flatMap((v) => [
        draw("line", { class: "grid", x1: x(v), x2: x(v), y1: TOP, y2: HEIGHT - BOTTOM }),
        text([x(v), HEIGHT - BOTTOM + 17], "tick", short(Number(v.toFixed(6))), "middle"),
      ]),
      ...ticks(low, high, 5).flatMap((v) => [
        draw("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(v), y2: y(v) }),
        Math.abs(y(v) - y(f.top)) < 14 ? "" : text([LEFT - 8, y(v) + 4], "tick", short(Number(v.toFixed(6))), "end"),
      ]),
      text([0, 14], "axis", "E[r], nats"),
      text([WIDTH - RIGHT, HEIGHT - 6], "axis", "KL(π‖π_ref), nats", "end"),
      line(curve, "frontier"),
      line([[0, f.top], [end, f.top + f.beta * end]], "price"),
      line(walked, "path"),
      draw("rect", { class: "reference", x: start[0] - 5, y: start[1] - 5, width: 10, height: 10 }),
      draw("line", { class: "price", x1: LEFT - 5, x2: LEFT + 5, y1: y(f.top), y2: y(f.top) }),
      text([LEFT - 8, y(f.top) + 4], "mark", "J*", "end"),
      draw("circle", { class: "best", cx: star[0], cy: star[1], r: 7 }),
      draw("path", { class: "dpo", d: `M${now[0]},${now[1] - 6}l6,10h-12z` }),
      text([start[0] + 9, start[1] + 17], "mark", crowded ? "π_ref, π*" : "π_ref"),
      crowded ? "" : text([star[0] + 8, star[1] + 19], "mark", "π*"),
    ].filter(Boolean);
  }

  /** What the plane shows, for who does not see it. */
  const described = (f) =>
    `Expected reward against KL. The best policies of all β form a curve that begins at π_ref, reward ` +
    `${fixed(f.before)}. The line of slope β = ${short(f.beta)} touches it at π*, KL ${fixed(f.cost)} and reward ` +
    `${fixed(f.after)}, and meets the axis at J* = ${fixed(f.top)}. DPO's path has reached KL ` +
    `${fixed(kl(f.policy, f.reference))} and reward ${fixed(expectedReward(f.policy, f.reward))}.`;

  let made = 0;

  /** A slider under its label; `at` shows a value beside the label. The slider itself says it: an <output> would, too. */
  function slider(label, range, value) {
    const id = `prefcourse-explorable-${++made}`;
    const [input, shown] = [make("input", { type: "range", id, ...range, value }), make("span", { class: "value" })];
    const box = make("div", { class: "control" }, [make("label", { for: id }, label), shown, input]);
    const at = (words) => (input.setAttribute("aria-valuetext", words), (shown.textContent = words));
    return { box, input, at };
  }

  /** A reply: its reward's slider over the bars of its probability under π_ref, π* and DPO. */
  function reply(name, value) {
    const reward = slider([`“${name}”`, make("small", {}, "reward")], { min: -2, max: 2, step: 0.1 }, value);
    const bars = [["reference", "π_ref"], ["best", "π*"], ["dpo", "DPO"]].map(([kind, label]) => {
      const [bar, words] = [draw("rect", { class: kind, height: 10 }), make("span")];
      const looks = { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" };
      const at = (p) => (bar.setAttribute("width", 100 * p), (words.textContent = percent(p)));
      return { parts: [make("dt", {}, typeset(label)), make("dd", {}, [draw("svg", looks, bar), words])], at };
    });
    const box = make("div", { class: "reply" }, [reward.box, make("dl", {}, bars.flatMap((bar) => bar.parts))]);
    const at = (f, y) => {
      reward.at(signed(f.reward[y]));
      [f.reference, f.best, f.policy].forEach((policy, k) => bars[k].at(policy[y]));
    };
    return { box, input: reward.input, at };
  }

  /** The numbers in one line each. */
  const numbers = (f) => [
    ["Z", short(Math.exp(f.log))], ["J* = β log Z", fixed(f.top, 3)],
    ["KL(π*‖π_ref)", `${fixed(f.cost, 3)} nats`], ["E[r], π_ref → π*", `${fixed(f.before, 3)} → ${fixed(f.after, 3)}`],
    ["J of DPO’s policy", fixed(f.reached, 3)], ["loss of DPO", fixed(f.loss, 3)],
  ];

  /** Fill one container: controls, bars, plane, numbers and sentences. */
  function explorable(box) {
    const given = { beta: "1", rewards: "-1,0,1,2", reference: REFERENCES[0][0], ...box.dataset };
    const far = BETAS.map((beta) => Math.abs(Math.log(beta / given.beta)));
    const beta = slider("β, the price of a nat", { min: 0, max: BETAS.length - 1 }, far.indexOf(Math.min(...far)));
    const steps = slider(["DPO’s steps", make("small", {}, "of 1.5/β²")], { min: 0, max: STEPS.length - 1 }, 3);
    const options = REFERENCES.map(([name]) => make("option", {}, name));
    const choice = make("select", { id: `prefcourse-explorable-${++made}` }, options);
    choice.value = given.reference;
    const label = make("label", { for: choice.id }, typeset("the reference, π_ref"));
    const replies = REPLIES.map((name, y) => reply(name, given.rewards.split(",")[y]));
    const picture = draw("svg", { class: "plane", role: "img", viewBox: `0 0 ${WIDTH} ${HEIGHT}` });
    const swatch = ([kind, words]) => {
      const line = draw("path", { class: kind, d: "M2,4h24" });
      return make("span", {}, [draw("svg", { viewBox: "0 0 28 8", "aria-hidden": "true" }, line), words]);
    };
    const key = [["frontier", "π* of every β"], ["price", "slope β, from J*"], ["path", "DPO’s path"]];
    const legend = make("figcaption", {}, key.map(swatch));
    const table = make("dl", { class: "numbers" });
    const said = make("p", { class: "said", role: "status" });
    let waiting = null;

    function show() {
      const reward = replies.map(({ input }) => Number(input.value));
      const reference = REFERENCES.find(([name]) => name === choice.value)[1];
      const f = facts({ reference, reward, beta: BETAS[beta.input.value], steps: STEPS[steps.input.value] });
      beta.at(short(f.beta));
      steps.at(String(f.steps));
      replies.forEach((row, y) => row.at(f, y));
      picture.replaceChildren(...plane(f));
      picture.setAttribute("aria-label", described(f));
      const cell = ([name, value]) => make("div", {}, [make("dt", {}, typeset(name)), make("dd", {}, value)]);
      table.replaceChildren(...numbers(f).map(cell));
      clearTimeout(waiting); // a sentence is said when the slider rests, not at each of its positions
      waiting = setTimeout(() => (said.replaceChildren(...typeset(sentences(f).join(" ")))), 200);
    }

    box.replaceChildren(
      make("p", { class: "title" }, [make("strong", {}, "What β buys."), TITLE]),
      make("div", { class: "controls" }, [beta.box, make("div", { class: "control" }, [label, choice]), steps.box]),
      make("div", { class: "columns" }, [
        make("div", {}, replies.map((row) => row.box)),
        make("div", {}, [make("figure", {}, [picture, legend]), table]),
      ]),
      said,
    );
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", "What β buys: an interactive figure");
    box.addEventListener("input", show);
    show();
  }

  const looks = new URL("explorable.css", document.currentScript.src).href;
  if (![...document.styleSheets].some((sheet) => sheet.href === looks))
    document.head.append(make("link", { rel: "stylesheet", href: looks }));
  const start = () => document.querySelectorAll(".prefcourse-explorable:not([role])").forEach(explorable);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
