{#- A Styler's table with scoped heads: an outer index level becomes a line above its group, `caption` is (caption, note). -#}
{%- macro plain(c, scope) -%}
<th scope="{{ scope }}" class="{{ c.class }}"{% if c.attributes %} {{ c.attributes }}{% endif %}>{{ c.display_value }}</th>
{%- endmacro -%}
<div class="table"><div class="scroll">
<table id="T_{{ uuid }}" {{ table_attributes or "" }}>
<caption><span>{{ caption[0] if caption is not string else caption }}</span></caption>
<thead>
{% for line in head %}{% set last = loop.last %}<tr>
{% for c in (line[1:] if body[0][1].type == "th" else line) if c.is_visible -%}
{% if "blank" in c.class %}<td></td>{% else %}{{ plain(c, "col" if last else "colgroup") }}{% endif %}
{% endfor %}</tr>
{% endfor %}</thead>
<tbody>
{% for line in body -%}
{% set grouped = line[1].type == "th" -%}
{% if grouped and line[0].is_visible -%}
{% if not loop.first %}</tbody>
<tbody>
{% endif %}<tr class="group"><th scope="rowgroup" colspan="{{ line|length - 1 }}"><span>{{ line[0].display_value }}</span></th></tr>
{% endif -%}
<tr>
{% for c in (line[1:] if grouped else line) -%}
{% if c.type == "th" %}{{ plain(c, "row") }}{% elif c.is_visible %}<td class="{{ c.class }}"{% if c.id is defined %} id="T_{{ uuid }}_{{ c.id }}"{% endif %}>{{ c.display_value }}</td>{% endif %}
{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>
{% if caption is not string and caption[1] %}<p class="note">{{ caption[1] }}</p>
{% endif %}</div>
