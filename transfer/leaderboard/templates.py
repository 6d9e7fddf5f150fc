"""The text of the pages: style, script and Jinja templates."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fff; --soft: #666; --line: #ddd; --back: #f5f5f3; --link: #0b57a4;
  --measured: #0b57a4; --verified: #a4480b; --tool: #2e7d32; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #161616; --soft: #a0a0a0; --line: #3a3a3a;
  --back: #222; --link: #7fb8f0; --measured: #7fb8f0; --verified: #f0a070; --tool: #81c784; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1500px; padding: 1.2em; color: var(--ink);
  background: var(--paper); }
a { color: var(--link); } h1 { line-height: 1.2; margin: 0.4em 0; } h2 { margin: 1.8em 0 0.3em; font-size: 1.25em; }
p { max-width: 50em; margin: 0.4em 0; } .soft, small { color: var(--soft); }
.wide { overflow-x: auto; margin: 0.6em 0; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
thead th { background: var(--back); vertical-align: bottom; } .text { text-align: left; }
td.long { white-space: normal; min-width: 16em; text-align: left; }
th button { all: unset; cursor: pointer; font-weight: 600; } th button:focus-visible { outline: 2px solid var(--link); }
th[aria-sort=ascending] button::after { content: " ▲"; } th[aria-sort=descending] button::after { content: " ▼"; }
td.name { background: var(--paper); } .name { position: sticky; left: 0; max-width: 22em; white-space: normal; min-width: 12em; }
tr.withdrawn td { text-decoration: line-through; color: var(--soft); } .doubt { color: var(--verified); }
tr.withdrawn td.long { text-decoration: none; }
.filters { display: flex; flex-wrap: wrap; gap: 0.6em 1.2em; margin: 1em 0; } [hidden] { display: none; }
input, select { font: inherit; padding: 2px 6px; color: inherit; background: var(--back); border: 1px solid var(--line); }
svg { width: 100%; max-width: 720px; height: auto; } svg text { fill: var(--soft); font-size: 12px; }
svg line { stroke: var(--line); } svg a text { font-size: 11px; } .measured { fill: var(--measured); } .verified { fill: var(--verified); }
.tool { fill: var(--tool); } dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.2em 1.2em; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 600px) { body { padding: 0.7em; font-size: 14px; } dl { grid-template-columns: 1fr; }
  .name { max-width: 9em; min-width: 8em; } td.long { min-width: 11em; } th, td { padding: 4px 6px; } }
"""

SCRIPT = """
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const head = button.parentElement, table = head.closest("table"), body = table.tBodies[0];
  const up = head.getAttribute("aria-sort") === "descending", place = head.cellIndex;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = row => { const v = row.cells[place].dataset.value; return v === "" || isNaN(v) ? v : Number(v); };
  const compare = (a, b) => a === "" ? 1 : b === "" ? -1
    : (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b))) * (up ? 1 : -1);
  for (const row of [...body.rows].sort((a, b) => compare(key(a), key(b)))) body.append(row);
});
const filters = [...document.querySelectorAll(".filters [data-by]")];
function filter() {
  for (const row of document.querySelectorAll("tr[data-text]")) row.hidden = !filters.every(one => one.value === ""
    || (one.dataset.by === "text" ? row.dataset.text.toLowerCase().includes(one.value.toLowerCase())
      : row.dataset[one.dataset.by] === one.value));
  for (const part of document.querySelectorAll("section[data-tier]"))
    part.hidden = ![...part.querySelectorAll("tr[data-text]")].some(row => !row.hidden);
}
for (const one of filters) for (const name of ["input", "change"]) one.addEventListener(name, filter);
filter();
"""

BASE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{% block title %}{% endblock %}</title>
<style>{{ style|safe }}</style>
</head>
<body>
{% block nav %}<nav><a href="{{ up }}index.html">Leaderboard</a></nav>{% endblock %}

<h1>{{ self.title() }}</h1>
{% block body %}{% endblock %}
<script>{{ script|safe }}</script>
</body>
</html>
"""

INDEX = """{% extends "base" %}
{% block title %}Leaderboard{% endblock %}
{% block nav %}{% endblock %}
{% block body %}
<p>Facial expression recognition: predictions scored by one program on the same faces, with tests of what can be told
apart. Rows of different tiers are never ranked together: {% for tier, said in tiers.items() %}
<b>{{ tier }}</b> ({{ said }}){{ ", " if not loop.last else ", and" }} {% endfor %} <b>reported</b> (numbers of papers).</p>
<p><a href="leaderboard.csv">leaderboard.csv</a> · <a href="leaderboard.json">leaderboard.json</a> ·
how to join: docs/leaderboard.md</p>
{% for board in boards %}
<h2><a href="{{ board.id }}.html">{{ board.task.title }}</a> <small>{{ board.name }}@{{ board.task.version }}</small></h2>
<p class="soft">{{ "{:,}".format(board.task.faces) }} faces, {{ board.task.classes|length }} classes. {{ board.task.about }}</p>
<div class="wide"><table><thead><tr><th class="text">Tier</th><th>Rank</th><th class="text">Entry</th><th>n</th>
<th>Accuracy (%)</th></tr></thead><tbody>
{% for row in board.rows if row.rank and row.rank.best <= 3 %}
<tr><td class="text">{{ row.tier }}</td><td>{{ row.rank|rank }}</td>
<td class="text"><a href="entries/{{ row.name }}.html">{{ row.title }}</a></td><td>{{ row.scores.n_seeds }}</td>
<td>{{ "%.2f" % (100 * row.scores.accuracy) }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endfor %}
{% if others %}
<h2>Tasks without data here</h2>
<ul>{% for name, task in others.items() %}<li>{{ task.title }} <small>{{ name }}@{{ task.version }}</small></li>{% endfor %}</ul>
{% endif %}
{% endblock %}
"""

TASK = """{% extends "base" %}
{% block title %}{{ board.task.title }}{% endblock %}
{% block body %}
{% set task = board.task %}
<p>{{ task.about }} Task {{ board.name }}, version {{ task.version }}: {{ "{:,}".format(task.faces) }} faces of
{{ task.dataset }}; labels: {{ task.labels }}. <span class="soft">Digest of samples and labels {{ task.digest[:16] }}.</span></p>
<p><a href="leaderboard.csv">csv</a> · <a href="leaderboard.json">JSON</a> ·
<a href="{{ board.id }}.samples.csv">samples</a> · <a href="{{ board.id }}.croissant.json">Croissant</a></p>
<div class="filters">
<label>Filter <input type="search" data-by="text" placeholder="name, method"></label>
{% for key, head in (("tier", "Tier"), ("about.protocol", "Selection"), ("about.weights", "Start")) %}
<label>{{ head }} <select data-by="{{ key.split(".")[-1] }}"><option value="">all</option>
{% for value in board.rows|map(attribute=key)|unique %}<option>{{ value }}</option>{% endfor %}
</select></label>
{% endfor %}
</div>
{% for tier, (columns, rows) in tables.items() %}
<section data-tier="{{ tier }}">
<h2>{{ tier|capitalize }}: {{ tiers[tier] }}</h2>
<p>{{ board.sentences[tier] }} Rank: the places that the tests leave open. Entries that share a letter cannot be told apart.</p>
<div class="wide"><table id="{{ tier }}"><thead><tr>
<th class="text name"><button>Entry</button></th><th><button>Rank</button></th><th class="text"><button>Group</button></th>
{% for column in columns %}
<th title="{{ column.hint }}"><button>{{ column.title }}</button></th>
{% endfor %}
</tr></thead><tbody>
{% for row, cells in rows %}
<tr data-text="{{ row.title }} {{ row.name }} {{ row.about.method }}" data-tier="{{ tier }}" data-protocol="{{ row.about.protocol }}"
 data-weights="{{ row.about.weights }}"{{ ' class="withdrawn"'|safe if row.withdrawn }}>
<td class="text name" data-value="{{ row.title }}"><a href="entries/{{ row.name }}.html">{{ row.title }}</a>
{%- if row.scores.n_seeds == 1 %} <small>single run</small>{% endif %}
{%- if row.doubts %} <small class="doubt">doubted</small>{% endif %}
{%- if row.withdrawn %} <small>withdrawn</small>{% endif %}</td>
<td data-value="{{ row.rank.best if row.rank else "" }}">{{ row.rank|rank }}</td>
<td class="text" data-value="{{ row.rank.letters if row.rank else "" }}">{{ row.rank.letters if row.rank else "" }}</td>
{% for text, value in cells %}<td data-value="{{ value }}">{{ text }}</td>{% endfor %}

</tr>
{% endfor %}
</tbody></table></div>
</section>
{% endfor %}
<h2>Controls</h2>
<div class="wide"><table id="controls"><tbody>
{% for one in board.controls %}
<tr><td class="text">{{ one.control }}</td><td>{{ one.accuracy|percent }}</td><td class="long soft">{{ one.assumption }}</td></tr>
{% endfor %}
</tbody></table></div>
{% if plot %}
<h2>Accuracy and cost</h2>
<svg viewBox="0 0 680 310" role="img" aria-label="Accuracy over the number of parameters">
{% for y, text in plot.lines %}
<line x1="60" x2="620" y1="{{ y }}" y2="{{ y }}"/><text x="52" y="{{ y + 4 }}" text-anchor="end">{{ text }} %</text>
{% endfor %}
{% for x, text in plot.columns %}
<line x1="{{ x }}" x2="{{ x }}" y1="20" y2="260"/><text x="{{ x }}" y="278" text-anchor="middle">{{ text }}</text>
{% endfor %}
{% for point in plot.points %}
<a href="entries/{{ point.row.name }}.html"><circle class="{{ point.row.tier }}" cx="{{ point.x }}" cy="{{ point.y }}" r="5">
<title>{{ point.row.title }}: {{ point.row.scores.accuracy|percent }}, {{ point.row.about.parameters|value }} parameters</title>
</circle><text x="{{ point.x + 8 }}" y="{{ point.y + 4 }}">{{ point.row.title|truncate(18) }}</text></a>
{% endfor %}
<text x="340" y="300" text-anchor="middle">parameters</text>
</svg>
<p>{% for tier in tables %}<svg viewBox="0 0 10 10" style="width: 10px"><circle class="{{ tier }}" cx="5" cy="5" r="5"/></svg>
{{ tier }} {% endfor %}</p>
{% endif %}
{% if board.rows %}
<h2>Recall by class</h2>
<div class="wide"><table id="recall"><thead><tr><th class="text name"><button>Entry</button></th>
{% for name in task.classes %}<th><button>{{ name }}</button></th>{% endfor %}</tr></thead><tbody>
{% for row in board.rows if not row.withdrawn %}
<tr><td class="text name" data-value="{{ row.title }}">{{ row.title }}</td>
{% for name in task.classes %}{% set value = row.scores["recall_" ~ name] %}
<td data-value="{{ "" if value is none else value }}">{{ "" if value is none else value|percent }}</td>{% endfor %}
</tr>
{% endfor %}
</tbody></table></div>
<h2>Agreement</h2>
<p>Share of the faces to which two entries give the same answer. {{ board.missed|length }} faces are wrong in every run of
every entry{% if board.missed %}: <span class="soft">{{ board.missed[:12]|join(", ") }}
{{- ", … (all in the JSON)" if board.missed|length > 12 }}</span>{% endif %}.</p>
<div class="wide"><table><thead><tr><th class="text name">Entry</th>{% for name in board.agreement %}<th>{{ loop.index }}</th>
{% endfor %}</tr></thead><tbody>
{% for name, others in board.agreement.items() %}
<tr><td class="text name">{{ loop.index }} {{ board.title(name) }}</td>{% for value in others.values() %}<td>{{ "%.0f %%" % (100 * value) }}</td>
{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endif %}
{% for cited, numbers in board.reported|groupby("cited")|reverse %}
<h2>{{ "Reported: numbers of papers" if cited else "Uncited: numbers without a document that was read" }}</h2>
<p>Not checked here, often of one run and of the best epoch on the test split; not ranked.</p>
<div class="wide"><table class="reported"><thead><tr><th class="text"><button>Method</button></th><th><button>Year</button></th>
<th><button>Accuracy (%)</button></th><th class="text"><button>Selection</button></th><th class="text">Source</th></tr></thead><tbody>
{% for one in numbers %}
<tr><td class="text" data-value="{{ one.method }}">{{ one.method }}</td><td data-value="{{ one.year }}">{{ one.year }}</td>
<td data-value="{{ one.accuracy }}">{{ "%.2f" % one.accuracy }}</td>
<td class="text" data-value="{{ one.protocol }}"{% if one.evidence %} title="{{ one.evidence }}"{% endif %}>{{ one.protocol }}</td>
<td class="long soft"><a href="{{ one.url }}" rel="nofollow">{{ one.paper }}</a>; {{ one.said }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endfor %}
<h2>Versions of this task</h2>
<ul>{% for change in task.changelog %}<li>{{ change.version }} ({{ change.date }}): {{ change.text }}</li>{% endfor %}</ul>
{% if board.earlier %}<p>Entries of earlier versions, not scored here: {{ board.earlier|join(", ") }}.</p>{% endif %}
{% endblock %}
"""

ENTRY = """{% extends "base" %}
{% block title %}{{ row.title }}{% endblock %}
{% block body %}
<p>{{ row.tier }}: {{ tiers[row.tier] }}. Task <a href="../{{ board.id }}.html">{{ board.task.title }}</a>,
version {{ board.task.version }}.</p>
{% if row.withdrawn %}<p class="doubt">Withdrawn {{ row.withdrawn }}</p>{% endif %}
{% for doubt in row.doubts %}
<p class="doubt">Doubted by {{ doubt.who }}, {{ doubt.date }}: {{ doubt.text }} <a href="{{ doubt.url }}" rel="nofollow">source</a></p>
{% endfor %}
<h2>Scores</h2>
<dl>{% for head, (text, value) in scores.items() if text != "" %}<dt>{{ head }}</dt><dd>{{ text }}</dd>{% endfor %}</dl>
<h2>Recall by class</h2>
<dl>{% for name, value in recalls.items() %}<dt>{{ name }}</dt><dd>{{ "–" if value is none else value|percent }}</dd>{% endfor %}</dl>
<h2>What is said of it</h2>
<dl>{% for key, value in row.about.items() if value is not none and value != "" and key not in shown %}
<dt>{{ key|replace("_", " ") }}</dt><dd>
{%- if value is string and value.startswith(("https://", "http://")) %}<a href="{{ value }}" rel="nofollow">{{ value }}</a>
{%- else %}{{ value|value }}{% endif %}</dd>
{% endfor %}</dl>
<h2>Files</h2>
<ul>{% for name, path in row.files.items() %}<li><a href="../{{ path }}">{{ name }}</a></li>{% endfor %}

{% if row.tier == "measured" %}
<li><a href="../models/{{ row.name }}/README.md">model card</a></li>
<li><a href="../models/{{ row.name }}/.eval_results/{{ board.name }}.yaml">.eval_results of Hugging Face</a></li>
{% endif %}
</ul>
{% endblock %}
"""

CARD = """---
{{ index }}---

# {{ row.title }} ({{ row.name }})

A facial expression classifier, made by [TransFER's benchmark]({{ "../../entries/" ~ row.name }}.html): {{ row.about.method }},
{{ row.scores.n_seeds }} training{{ "s" if row.scores.n_seeds > 1 }} on {{ row.about.training_data }}.

- **Model**: {{ row.about.model_architecture }}, backbone {{ row.about.backbone }}, {{ "{:,}".format(row.about.parameters) }} parameters,
  {{ "{:,}".format(row.about.macs) }} multiplications with additions per face; loss {{ row.about.loss }}; {{ row.about.weights }} weights at the start
- **Input**: an aligned face{{ " of " ~ row.about.model_input_size ~ " pixels" if row.about.model_input_size }}; output: {{ board.task.classes|join(", ") }}
- **Tested on**: {{ board.task.title }}, version {{ board.task.version }}, {{ "{:,}".format(board.task.faces) }} faces. {{ board.task.about }}
- **Epoch**: {{ row.about.protocol }}
- **Again**: `{{ row.about.code_command }}` at commit {{ row.about.code_commit }}

| number | value |
|---|---|
| accuracy | {{ "%.2f" % (100 * row.scores.accuracy) }} % ({{ "%.2f to %.2f" % (100 * row.scores.ci95_low, 100 * row.scores.ci95_high) }}) |
| mean class accuracy | {{ "%.2f" % (100 * row.scores.mean_class_accuracy) }} % |
| expected calibration error | {{ "%.2f" % (100 * row.scores.ece) }} % |
{% for name in board.task.classes if row.scores["recall_" ~ name] is not none %}
| recall of {{ name }} | {{ "%.2f" % (100 * row.scores["recall_" ~ name]) }} % |
{% endfor %}

**Limits.** An expression in a picture is not a feeling. Labels are the majority of few taggers, classes are unbalanced, and rare classes
are recognised worse than the accuracy says. Not for decisions about people.
"""
