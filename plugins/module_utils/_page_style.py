"""How the one-look page looks: in the light, in the dark, on a phone, and in print."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--paper:#faf9f6;--card:#fff;--ink:#1d2126;--soft:#5d646e;--line:#e4e1d9;
--red:#b3211b;--yellow:#8a5a00;--green:#1d7047;--blue:#2458a8;--grey:#626973;
--red-t:#fbe9e7;--yellow-t:#fdf3dc;--green-t:#e9f4ee;--blue-t:#e8effa;--grey-t:#f0f0ee}
@media (prefers-color-scheme:dark){:root{--paper:#14171a;--card:#1b1f24;--ink:#e7e5df;--soft:#9aa2ad;--line:#2d333a;
--red:#ff8f85;--yellow:#f0c05a;--green:#74cf9f;--blue:#8db9ff;--grey:#a4abb5;
--red-t:#3a1d1c;--yellow-t:#342a14;--green-t:#172a20;--blue-t:#1a2739;--grey-t:#24282d}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,
"Noto Sans","DejaVu Sans",sans-serif;font-variant-numeric:tabular-nums}
.wrap{max-width:1680px;margin:0 auto;padding:26px 24px 40px}
.red{--c:var(--red);--t:var(--red-t)}.yellow{--c:var(--yellow);--t:var(--yellow-t)}
.green{--c:var(--green);--t:var(--green-t)}.blue{--c:var(--blue);--t:var(--blue-t)}
.grey{--c:var(--grey);--t:var(--grey-t)}
.s{width:1em;height:1em;flex:none;fill:var(--c);vertical-align:-.13em}
.k{fill:none;stroke:var(--card);stroke-width:1.8;stroke-linecap:round;stroke-linejoin:round}
.o{fill:none;stroke:var(--c);stroke-width:1.6;stroke-linecap:round}
h1,h2,h3,p,ol,ul,dl,dd,table{margin:0;padding:0}
header{display:flex;gap:22px;align-items:center;padding:24px 28px;background:var(--t);border-radius:14px;
border-left:8px solid var(--c)}
header .s{width:64px;height:64px}
h1{font-size:34px;line-height:1.15;font-weight:650;letter-spacing:-.01em}
header p{color:var(--soft);margin-top:6px}
header .counts{margin-left:auto;display:flex;gap:18px;list-style:none}
.counts li{text-align:center;white-space:nowrap;color:var(--soft);font-size:12.5px}
.counts b{display:block;font-size:26px;line-height:1.1;color:var(--ink);font-weight:600}
.counts .s{width:13px;height:13px}.counts .none{opacity:.4}
h2{font-size:13px;letter-spacing:.09em;text-transform:uppercase;color:var(--soft);font-weight:600;margin:34px 0 12px}
.needs{list-style:none;display:grid;grid-template-columns:repeat(5,minmax(0,1fr));gap:14px}
.needs li{background:var(--card);border:1px solid var(--line);border-top:4px solid var(--c);border-radius:10px;
padding:14px 16px;display:flex;flex-direction:column;gap:7px;min-width:0}
.needs .where{display:flex;gap:8px;align-items:center;font-weight:600;overflow-wrap:anywhere}
.needs .what{overflow-wrap:anywhere}
.needs .far{color:var(--soft);font-size:13px;overflow-wrap:anywhere}
.needs .foot{margin-top:auto;font-size:13px;color:var(--soft);overflow-wrap:anywhere}
code{font:12.5px/1.5 ui-monospace,"DejaVu Sans Mono",Menlo,monospace;background:var(--grey-t);border-radius:5px;
padding:2px 7px;overflow-wrap:anywhere}
.needs code{padding:6px 9px;display:block}
a{color:inherit;text-decoration-color:var(--soft);text-underline-offset:3px}
a:focus-visible,summary:focus-visible{outline:3px solid var(--blue);outline-offset:2px;border-radius:4px}
.calm{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px;color:var(--soft)}
.matrix{position:relative;overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:12px}
.matrix table{border-collapse:collapse;width:100%;font-size:12.5px;line-height:1.35}
caption{position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden}
th,td{text-align:left;vertical-align:top;padding:10px 8px}
thead th:nth-child(5),thead th:nth-child(13){width:9.3%}thead th:nth-child(2),thead th:nth-child(9){width:8.4%}
thead th{font-weight:600;color:var(--soft);font-size:12px;border-bottom:1px solid var(--line);white-space:nowrap}
tbody tr+tr>*{border-top:1px solid var(--line)}
tbody th{position:sticky;left:0;background:var(--card);min-width:128px;box-shadow:inset 5px 0 var(--c);
padding-left:16px;font-weight:600;font-size:13.5px;z-index:1;overflow-wrap:anywhere}
tbody th a{text-decoration:none}tbody th a:hover{text-decoration:underline}
tbody th small{display:block;font-weight:400;color:var(--soft);font-size:12px}
tbody th .say{color:var(--c);font-weight:600}
.because{color:var(--soft);font-style:italic}
.p{display:block}.c{display:none}.say+.p{display:inline}
.matrix td{min-width:92px;max-width:180px;border-left:1px solid var(--line);background:var(--card)}
.matrix td.red,.matrix td.yellow,.matrix td.blue,.matrix td.grey{background:var(--t)}
.v{display:flex;gap:5px;font-weight:550}.v .s{margin-top:.17em}.green .v{font-weight:450}
.v span{overflow-wrap:break-word;min-width:0}
.say{color:var(--c);font-weight:600}
.m{display:block;color:var(--soft);font-size:11.5px;margin-top:3px;overflow-wrap:break-word}
.green .say,.hide{position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden;white-space:nowrap}
.month{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:16px 18px}
.days{display:block;width:100%;height:auto;margin-bottom:8px}
.days text{font-size:9px;fill:var(--soft)}.days .day{fill:var(--grey-t)}
.days .incident{fill:var(--red)}.days .release{fill:var(--blue)}.days .restore{fill:var(--green)}
.events{list-style:none;columns:2;column-gap:36px;font-size:13.5px}
.events li{break-inside:avoid;padding:5px 0;border-top:1px solid var(--line);display:flex;gap:10px}
.events time{color:var(--soft);white-space:nowrap}.events span{overflow-wrap:anywhere;min-width:0}
.kind{font-weight:600}
details{background:var(--card);border:1px solid var(--line);border-radius:12px;margin-top:10px}
summary{cursor:pointer;padding:12px 16px;font-weight:600;display:flex;gap:10px;align-items:center;list-style:none}
summary::-webkit-details-marker{display:none}
summary::after{content:"\\25B8";margin-left:auto;color:var(--soft)}details[open]>summary::after{content:"\\25BE"}
summary small{font-weight:400;color:var(--soft);overflow-wrap:anywhere}
.inside{padding:2px 16px 16px}
.charts{display:grid;grid-template-columns:repeat(4,1fr);gap:18px;margin:4px 0 14px}
figure{margin:0;min-width:0}
figcaption{font-size:12.5px;color:var(--soft);display:flex;justify-content:space-between;gap:8px}
figcaption b{color:var(--ink);font-weight:600}
.chart{display:block;width:100%;height:auto;margin-top:4px;overflow:visible}
.chart .axis{stroke:var(--line)}.chart .line{fill:none;stroke:var(--ink);stroke-width:1.6;stroke-linejoin:round}
.chart .area{fill:var(--blue-t)}.chart .dot{fill:var(--ink)}.chart .bar{fill:var(--ink);opacity:.72}
.chart .limit{stroke:var(--red);stroke-dasharray:5 4;stroke-width:1.2}
.facts{width:100%;border-collapse:collapse;font-size:13px}
.facts td,.facts th{padding:6px 9px;border-top:1px solid var(--line);position:static;box-shadow:none;min-width:0}
.facts tbody th{font-weight:600;font-size:13px;white-space:nowrap;padding-left:9px}
.facts td{overflow-wrap:anywhere}
.legend{display:grid;grid-template-columns:repeat(auto-fit,minmax(250px,1fr));gap:8px 22px;list-style:none;
font-size:13px;color:var(--soft);margin-top:10px}.legend b{color:var(--c)}
footer{margin-top:26px;color:var(--soft);font-size:13px}
@media (max-width:1100px){header{flex-wrap:wrap}header>div{flex:1 1 0;min-width:0}header .counts{width:100%}
.inside{overflow-x:auto}.needs{grid-template-columns:repeat(auto-fill,minmax(242px,1fr))}
.charts{grid-template-columns:repeat(2,1fr)}.wrap{padding:20px}}
@media (max-width:700px){
.wrap{padding:12px 12px 28px}header{flex-wrap:wrap;padding:18px;gap:12px 14px}header .s{width:40px;height:40px}
header>div{flex:1 1 0;min-width:0}h1{font-size:24px}
header .counts{width:100%;margin:4px 0 0;justify-content:space-between;flex-wrap:wrap;gap:6px}.counts b{font-size:20px}
.counts .s{width:12px;height:12px}
.needs{grid-template-columns:1fr}
.matrix{overflow:visible;background:none;border:0}.matrix table,.matrix tbody{display:block}.matrix thead{display:none}
.matrix tbody tr{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,1fr);
background:var(--card);border:1px solid var(--line);border-radius:12px;margin-bottom:14px;overflow:hidden}
.matrix tbody th{position:static;grid-column:1/-1;font-size:17px;padding:12px 14px 12px 18px;border:0}
.matrix tbody td{min-width:0;max-width:none;overflow-wrap:anywhere;border:0;
border-top:1px solid var(--line);padding:9px 12px}
.matrix td.because{grid-column:1/-1}.matrix td.because::before{content:none}
.matrix tbody td:nth-of-type(even){border-left:1px solid var(--line)}
.p,.c{display:inline}
.matrix td::before{content:attr(data-label);display:block;font-size:11.5px;color:var(--soft);margin-bottom:2px}
.events{columns:1}.charts{grid-template-columns:1fr}
.facts thead{display:none}.facts,.facts tbody,.facts tr,.facts th,.facts td{display:block}
.facts tr{border-top:1px solid var(--line);padding:8px 0}.facts td,.facts th{border:0!important;padding:2px 0!important}
.facts td:empty{display:none}
}
@media print{@page{size:A4 landscape;margin:10mm}:root{--paper:#fff;--card:#fff;--ink:#000;--soft:#444;--line:#bbb;
--red:#9c0f0a;--yellow:#6e4700;--green:#0d5a35;--blue:#1a4590;--grey:#444;--red-t:#fff;--yellow-t:#fff;--green-t:#fff;
--blue-t:#fff;--grey-t:#fff}body{font-size:10pt}.wrap{padding:0;max-width:none}header,.needs li{border:1px solid #999}
.matrix{overflow:visible}.matrix table{font-size:7pt}.matrix td,.matrix th{min-width:0!important;padding:3px 4px}
details::details-content{content-visibility:visible;height:auto}tr,li,figure,details{break-inside:avoid}
.m{font-size:6.5pt}summary::after{content:none}}
"""
