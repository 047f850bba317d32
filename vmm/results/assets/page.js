// Draws the charts from the numbers in #data. What the tables of the page show are the same numbers, so nothing is
// computed here but places on a canvas. Text from files reaches the page by textContent and fillText only.
'use strict';
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const SERIES = 7;  // colours, --s0 to --s6
  const MEMORY = [
    ['resident', 'resident'], ['shared', 'shared'], ['compressed', 'compressed'], ['other', 'other'], ['free', 'free'],
  ];

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim();
  const seriesColor = (i) => color('s' + i % SERIES);
  const font = (px, weight = 400) => `${weight} ${px}px ${getComputedStyle(document.body).fontFamily}`;

  // -------------------------------------------------------------------------------------------------------------------
  // Numbers
  // -------------------------------------------------------------------------------------------------------------------

  const digits = (v) => {
    const a = Math.abs(v);
    if (a === 0) return '0';
    const text = v.toFixed(a >= 100 ? 0 : a >= 10 ? 1 : a >= 1 ? 2 : 3);
    return text.includes('.') ? text.replace(/\.?0+$/, '') : text;
  };
  const scaled = (v, steps, space) => {
    for (const [size, letter] of steps) if (Math.abs(v) >= size) return digits(v / size) + space + letter;
    return digits(v);
  };
  const short = (v) => scaled(v, [[1e9, 'G'], [1e6, 'M'], [1e3, 'k']], '');
  const formats = {
    number: short,
    per_second: (v) => short(v) + '/s',
    seconds: (v) => digits(v) + '\u00a0s',
    us: (v) => (Math.abs(v) >= 1e3 ? scaled(v, [[1e6, 's'], [1e3, 'ms']], '\u00a0') : digits(v) + '\u00a0\u00b5s'),
    bytes: (v) => scaled(v, [[2 ** 40, 'TiB'], [2 ** 30, 'GiB'], [2 ** 20, 'MiB'], [2 ** 10, 'KiB']], '\u00a0'),
    share: (v) => digits(v * 100) + '\u00a0%',
  };
  const shareSlower = (v) => (v >= 1 ? 'all' : '1 in ' + short(Math.round(1 / v)));
  const axisText = (x) => (typeof x === 'number' ? String(Number(x.toPrecision(6))) : x);

  // Steps between the marks of an axis: powers of two for bytes.
  const BINARY = Array.from({length: 60}, (_, i) => 2 ** i);

  // -------------------------------------------------------------------------------------------------------------------
  // What all charts have
  // -------------------------------------------------------------------------------------------------------------------

  const element = (tag, name, text) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  const axis = (more) => Object.assign({
    stroke: color('soft'), font: font(12), labelFont: font(12), labelSize: 22, labelGap: 2, gap: 6,
    grid: {stroke: color('grid'), width: 1}, ticks: {show: false},
  }, more);

  // `rows(index)` gives [title, [[class of the swatch, name, value], ...]] for a place of the cursor, or null.
  const tooltip = (rows) => {
    let tip;
    const place = (u) => {
      const shown = u.cursor.idx == null || u.cursor.left < 0 ? null : rows(u.cursor.idx);
      tip.hidden = !shown;
      if (!shown) return;
      tip.replaceChildren(element('b', '', shown[0]), ...shown[1].map(([swatch, name, value]) => {
        const row = element('div');
        if (swatch) row.append(element('span', 'swatch ' + swatch));
        row.append(element('span', '', name), element('span', 'v', value));
        return row;
      }));
      const right = u.cursor.left > u.over.clientWidth / 2;
      const left = u.over.offsetLeft + u.cursor.left + (right ? -14 - tip.offsetWidth : 14);
      tip.style.left = Math.max(0, Math.min(left, u.root.clientWidth - tip.offsetWidth)) + 'px';
      tip.style.top = u.over.offsetTop + 8 + 'px';
    };
    return {hooks: {
      init: (u) => { tip = element('div', 'tip'); tip.hidden = true; u.root.append(tip); u.root.style.position = 'relative'; },
      setCursor: place,
    }};
  };

  // Runs `paint` with the area of the plot as clip, lengths in CSS pixels.
  const painting = (paint, clipped = true) => (u) => {
    const {ctx, bbox} = u;
    const scale = uPlot.pxRatio;
    ctx.save();
    if (clipped) { ctx.beginPath(); ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height); ctx.clip(); }
    ctx.scale(scale, scale);
    ctx.textAlign = 'left';
    paint(ctx, {
      x: (v) => u.valToPos(v, 'x', true) / scale,
      y: (v) => u.valToPos(Math.min(Math.max(v, u.scales.y.min), u.scales.y.max), 'y', true) / scale,
      left: bbox.left / scale, top: bbox.top / scale, width: bbox.width / scale, height: bbox.height / scale,
    });
    ctx.restore();
  };

  // Phases behind everything, those that were measured tinted; a hairline where each begins, a strip above it, dark where it
  // was measured, and its name where there is room.
  const phases = (list) => painting((ctx, at) => {
    list.forEach((phase) => {
      const left = Math.max(at.left, at.x(phase.begin));
      const right = Math.min(at.left + at.width, at.x(phase.end));
      if (right <= left) return;
      ctx.fillStyle = color(phase.measured ? 'phase-measured' : 'phase');
      ctx.fillRect(left, at.top, right - left, at.height);
    });
  });
  const phaseNames = (list) => painting((ctx, at) => {
    ctx.font = font(11.5, 560);
    ctx.textBaseline = 'bottom';
    list.forEach((phase) => {
      const left = Math.max(at.left, at.x(phase.begin));
      const right = Math.min(at.left + at.width, at.x(phase.end));
      ctx.strokeStyle = color('soft');
      ctx.globalAlpha = 0.5;
      ctx.lineWidth = 1;
      if (left > at.left + 1) line(ctx, left, at.top - 18, left, at.top + at.height);
      ctx.globalAlpha = 1;
      ctx.fillStyle = color(phase.measured ? 'ink' : 'soft');
      const text = fitting(ctx, phase.name, right - left - 8);
      if (text) ctx.fillText(text, left + 4, at.top - 5);
      ctx.globalAlpha = phase.measured ? 0.9 : 0.3;
      ctx.fillRect(left + 1, at.top - 3, right - left - 2, 3);
      ctx.globalAlpha = 1;
    });
  }, false);

  const line = (ctx, x0, y0, x1, y1) => { ctx.beginPath(); ctx.moveTo(x0, y0); ctx.lineTo(x1, y1); ctx.stroke(); };

  // The text, shortened to a width; empty if nothing of it fits.
  const fitting = (ctx, text, width) => {
    if (ctx.measureText(text).width <= width) return text;
    let end = text.length;
    while (end > 0 && ctx.measureText(text.slice(0, end) + '\u2026').width > width) --end;
    return end > 1 ? text.slice(0, end) + '\u2026' : '';
  };

  const marker = (ctx, i, x, y, r) => {
    ctx.beginPath();
    if (i % 4 === 0) ctx.arc(x, y, r, 0, 2 * Math.PI);
    if (i % 4 === 1) ctx.rect(x - r * 0.88, y - r * 0.88, r * 1.76, r * 1.76);
    if (i % 4 === 2) { ctx.moveTo(x, y - r * 1.3); ctx.lineTo(x + r * 1.3, y); ctx.lineTo(x, y + r * 1.3); ctx.lineTo(x - r * 1.3, y); ctx.closePath(); }
    if (i % 4 === 3) { ctx.moveTo(x, y - r * 1.2); ctx.lineTo(x + r * 1.2, y + r); ctx.lineTo(x - r * 1.2, y + r); ctx.closePath(); }
    ctx.fill();
  };

  const whisker = (ctx, x, low, high, half) => {
    line(ctx, x, low, x, high);
    line(ctx, x - half, low, x + half, low);
    line(ctx, x - half, high, x + half, high);
  };

  const cross = (ctx, x, y, r) => { line(ctx, x - r, y - r, x + r, y + r); line(ctx, x - r, y + r, x + r, y - r); };

  // Names at the right ends of lines, moved apart where they would cover one another.
  const endLabels = (ctx, labels, top, bottom) => {
    labels.sort((a, b) => a.y - b.y);
    for (let i = 1; i < labels.length; ++i) labels[i].y = Math.max(labels[i].y, labels[i - 1].y + 16);
    for (let i = labels.length - 1; i >= 0; --i) {
      const limit = i === labels.length - 1 ? bottom : labels[i + 1].y - 16;
      labels[i].y = Math.max(top, Math.min(labels[i].y, limit));
    }
    ctx.font = font(13, 620);
    ctx.textBaseline = 'middle';
    labels.forEach((label) => { ctx.fillStyle = label.color; ctx.fillText(label.text, label.x, label.y); });
  };
  const widthOf = (names) => {
    const ctx = document.createElement('canvas').getContext('2d');
    ctx.font = font(13, 620);
    return Math.max(0, ...names.map((name) => ctx.measureText(name).width));
  };

  // The cursor stands where there are numbers.
  const toPlace = (u, left, top) => [left < 0 ? left : u.valToPos(u.data[0][u.posToIdx(left)], 'x'), top];

  const base = (width, height, more) => Object.assign({
    width, height, legend: {show: false}, padding: [14, 14, 0, 0],
    cursor: {y: false, points: {show: false}, drag: {x: false, y: false, setScale: false}, move: toPlace},
  }, more);

  const hidden = () => ({paths: () => null, points: {show: false}});

  // -------------------------------------------------------------------------------------------------------------------
  // Values: lines over numbers, bars over words
  // -------------------------------------------------------------------------------------------------------------------

  const has = (place) => place.mean !== null;
  const ended = (place) => place.killed + place.failed;

  const largestValue = (panel) => Math.max(0, ...panel.series.flatMap((s) => s.places.flatMap((place) =>
    (has(place) ? [...place.values, Math.min(place.high ?? 0, 3 * place.mean)] : []))));
  const smallestValue = (panel) => Math.min(0, ...panel.series.flatMap((s) => s.places.flatMap((place) => place.values)));

  const valueRows = (panel) => (i) => [
    panel.x.name ? `${panel.x.name} ${axisText(panel.x.values[i])}` : panel.name,
    panel.series.map((s, k) => {
      const place = s.places[i];
      const format = formats[panel.unit];
      const between = place.low !== null ? ` (${format(Math.max(place.low, Math.min(0, place.mean)))} to ${format(place.high)})` : '';
      const lost = ended(place) ? `${has(place) ? ', ' : ''}${ended(place)} of ${place.runs} killed or failed` : '';
      return ['c' + (panel.x.numeric ? k : barColor(panel, k, i)) % SERIES, s.name || panel.name, (has(place) ? format(place.mean) + between : '') + lost || 'no run'];
    }),
  ];

  // A cross and words for each series that has no run that ended well at a place, where there is more room: at the top, or
  // at the bottom.
  const paintEnded = (ctx, at, panel, i, x) => {
    const others = panel.series.map((s) => s.places[i]).filter(has).map((place) => at.y(place.mean));
    const top = others.every((y) => y > at.top + at.height / 2);
    const leftwards = x > at.left + at.width / 2;
    let row = 0;
    ctx.font = font(11.5, 560);
    ctx.textBaseline = 'middle';
    ctx.textAlign = leftwards ? 'right' : 'left';
    ctx.lineWidth = 2.2;
    panel.series.forEach((s, k) => {
      if (has(s.places[i]) || !ended(s.places[i])) return;
      const y = top ? at.top + 12 + 18 * row : at.top + at.height - 12 - 18 * row;
      ++row;
      ctx.strokeStyle = ctx.fillStyle = seriesColor(k);
      cross(ctx, x, y, 5);
      const words = (s.name ? s.name + ' ' : '') + (s.places[i].killed ? 'killed' : 'failed');
      ctx.fillText(fitting(ctx, words, at.width / 2), x + (leftwards ? -11 : 11), y);
    });
    ctx.textAlign = 'left';
  };

  const paintPoint = (ctx, at, k, place, x) => {
    ctx.strokeStyle = ctx.fillStyle = seriesColor(k);
    if (!has(place)) return;
    ctx.globalAlpha = 0.4;
    place.values.forEach((value) => { ctx.beginPath(); ctx.arc(x, at.y(value), 2.2, 0, 2 * Math.PI); ctx.fill(); });
    ctx.globalAlpha = 1;
    ctx.lineWidth = 1.6;
    if (place.low !== null) whisker(ctx, x, at.y(place.low), at.y(place.high), 5);
    marker(ctx, k, x, at.y(place.mean), 4.6);
  };

  const paintBand = (ctx, at, k, places, xs) => {
    const there = places.map((place, i) => [place, xs[i]]).filter(([place]) => has(place) && place.low !== null);
    if (there.length < 2) return;
    ctx.beginPath();
    there.forEach(([place, x]) => ctx.lineTo(at.x(x), at.y(place.high)));
    there.reverse().forEach(([place, x]) => ctx.lineTo(at.x(x), at.y(place.low)));
    ctx.closePath();
    ctx.globalAlpha = 0.13;
    ctx.fillStyle = seriesColor(k);
    ctx.fill();
    ctx.globalAlpha = 1;
  };

  const paintLine = (ctx, at, k, places, xs) => {
    ctx.strokeStyle = seriesColor(k);
    ctx.lineWidth = 2.4;
    ctx.lineJoin = 'round';
    ctx.setLineDash(k >= SERIES ? [6, 4] : []);
    ctx.beginPath();
    let pen = false;
    places.forEach((place, i) => {
      if (!has(place)) { pen = false; return; }
      pen ? ctx.lineTo(at.x(xs[i]), at.y(place.mean)) : ctx.moveTo(at.x(xs[i]), at.y(place.mean));
      pen = true;
    });
    ctx.stroke();
    ctx.setLineDash([]);
  };

  // Marks at the places that were measured, as many as there is room for.
  const marksAt = (xs, width) => (u, axisIndex, least, most) => {
    const kept = [];
    xs.forEach((x) => {
      const apart = kept.length ? (x - kept[kept.length - 1]) / (most - least) * (width - 80) : Infinity;
      if (apart >= 8 + 8 * axisText(x).length) kept.push(x);
    });
    return kept;
  };

  const lines = (panel, width, height) => {
    const xs = panel.x.values;
    const spread = xs[xs.length - 1] - xs[0];
    const named = panel.series.length > 1 && panel.series.length <= 6 && width >= 560;
    const format = formats[panel.unit];
    return [base(width, height, {
      padding: [14, named ? Math.min(220, widthOf(panel.series.map((s) => s.name)) + 18) : 14, 0, 0],
      scales: {x: {time: false, range: [xs[0] - spread * 0.05, xs[xs.length - 1] + spread * 0.05]}, y: valueScale(panel)},
      axes: [axis({splits: marksAt(xs, width), size: 26, values: (u, v) => v.map(axisText), label: panel.x.name, grid: {show: false}}),
             axis(logarithmic(panel) ? {splits: (u, i, least, most) => roundBetween(least, most), filter: (u, v) => v,
                                        values: (u, v) => v.map(format), size: sizeOfMarks, label: 'logarithmic'}
               : {values: (u, v) => v.map(format), space: 40, size: sizeOfMarks, incrs: panel.unit === 'bytes' ? BINARY : undefined})],
      series: [{}, ...panel.series.map(hidden)],
      plugins: [tooltip(valueRows(panel))],
      hooks: {draw: [painting((ctx, at) => {
        panel.series.forEach((s, k) => paintBand(ctx, at, k, s.places, xs));
        panel.series.forEach((s, k) => paintLine(ctx, at, k, s.places, xs));
        panel.series.forEach((s, k) => s.places.forEach((place, i) => paintPoint(ctx, at, k, place, at.x(xs[i]))));
        xs.forEach((x, i) => paintEnded(ctx, at, panel, i, at.x(x)));
      }, false), painting((ctx, at) => {
        if (!named) return;
        ctx.font = font(13, 620);
        const labels = panel.series.flatMap((s, k) => {
          const last = s.places[s.places.length - 1];
          return has(last) ? [{text: fitting(ctx, s.name, 190), color: seriesColor(k), x: at.x(xs[xs.length - 1]) + 12, y: at.y(last.mean)}] : [];
        });
        endLabels(ctx, labels, at.top + 6, at.top + at.height - 6);
      }, false)]},
    }), [xs, ...panel.series.map((s) => s.places.map((place) => place.mean))]];
  };

  const valueRange = (panel) => {
    const least = smallestValue(panel), most = largestValue(panel);
    return [least * 1.08, most > least ? most * 1.08 : least + 1];
  };

  // Where the largest mean would leave no room to see the others by.
  const logarithmic = (panel) => {
    const means = panel.series.flatMap((s) => s.places.filter(has).map((place) => place.mean));
    return means.length > 0 && Math.min(...means) > 0 && Math.max(...means) > 20 * Math.min(...means);
  };
  // 1, 2 and 5 times powers of ten.
  const roundBetween = (least, most) => {
    const all = [];
    for (let decade = 10 ** Math.floor(Math.log10(least)); decade <= most; decade *= 10) all.push(decade, 2 * decade, 5 * decade);
    return all.filter((v) => v >= least && v <= most);
  };
  const valueScale = (panel) => {
    if (!logarithmic(panel)) return {range: valueRange(panel)};
    const values = panel.series.flatMap((s) => s.places.filter(has).flatMap((place) => [place.mean, ...place.values])).filter((v) => v > 0);
    return {distr: 3, range: [Math.min(...values) / 1.6, largestValue(panel) * 1.25]};
  };

  // As wide as the longest mark of the axis.
  const sizeOfMarks = (u, values) => {
    if (!values) return 48;
    u.ctx.save();
    u.ctx.font = font(12);
    const width = Math.max(...values.map((v) => (v ? u.ctx.measureText(v).width : 0)));
    u.ctx.restore();
    return Math.ceil(width) + 12;
  };

  // A single series has a colour for each bar, the same as where the bars' axis makes the series of a chart.
  const barColor = (panel, k, i) => (panel.series.length === 1 ? i : k);

  const paintBar = (ctx, at, panel, k, i, x, width) => {
    const place = panel.series[k].places[i];
    ctx.fillStyle = ctx.strokeStyle = seriesColor(barColor(panel, k, i));
    const middle = x + width / 2;
    if (!has(place)) {
      ctx.lineWidth = 2.2;
      if (ended(place)) cross(ctx, middle, at.top + at.height - 10, 5);
      return;
    }
    const top = at.y(place.mean), bottom = at.y(0);
    ctx.beginPath();
    ctx.roundRect ? ctx.roundRect(x, top, width, bottom - top, [4, 4, 0, 0]) : ctx.rect(x, top, width, bottom - top);
    ctx.fill();
    ctx.fillStyle = ctx.strokeStyle = color('ink');
    ctx.globalAlpha = 0.45;
    place.values.forEach((value) => { ctx.beginPath(); ctx.arc(middle + width * 0.22, at.y(value), 2, 0, 2 * Math.PI); ctx.fill(); });
    ctx.globalAlpha = 1;
    ctx.lineWidth = 1.5;
    if (place.low !== null) whisker(ctx, middle, at.y(place.low), at.y(place.high), 5);
    const text = formats[panel.unit](place.mean);
    ctx.font = font(12, 600);
    if (ctx.measureText(text).width > width + 6) return;
    ctx.textAlign = 'center';
    ctx.fillText(text, middle, Math.min(at.y(place.high ?? place.mean), ...place.values.map(at.y)) - 7);
    ctx.textAlign = 'left';
  };

  const bars = (panel, width, height) => {
    const count = panel.x.values.length;
    const places = panel.x.values.map((_, i) => i);
    const format = formats[panel.unit];
    return [base(width, height, {
      scales: {x: {time: false, range: [-0.5, count - 0.5]}, y: {range: [valueRange(panel)[0], valueRange(panel)[1] * 1.04]}},
      axes: [axis({splits: () => places, size: 26, label: panel.x.name, grid: {show: false},
                   values: (u, v) => { u.ctx.font = font(12 * uPlot.pxRatio); return v.map((i) => fitting(u.ctx, axisText(panel.x.values[i] ?? ''), u.bbox.width / count - 8)); }}),
             axis({values: (u, v) => v.map(format), space: 40, size: sizeOfMarks, incrs: panel.unit === 'bytes' ? BINARY : undefined})],
      series: [{}, ...panel.series.map(hidden)],
      plugins: [tooltip(valueRows(panel))],
      hooks: {draw: [painting((ctx, at) => {
        const slot = Math.min(at.width / count * 0.76, 110 * panel.series.length);
        const each = slot / panel.series.length;
        places.forEach((i) => panel.series.forEach((s, k) =>
          paintBar(ctx, at, panel, k, i, at.x(i) - slot / 2 + each * k + each * 0.06, each * 0.88)));
        ctx.strokeStyle = color('soft');
        ctx.lineWidth = 1;
        line(ctx, at.left, at.y(0), at.left + at.width, at.y(0));
      }, false)]},
    }), [places, ...panel.series.map((s) => s.places.map((place) => place.mean))]];
  };

  // -------------------------------------------------------------------------------------------------------------------
  // Over time
  // -------------------------------------------------------------------------------------------------------------------

  const timeAxis = () => axis({values: (u, v) => v.map((t) => digits(t)), size: 26, label: 'seconds', grid: {show: false}});
  const timeRange = (seconds) => [0, Math.max(...seconds) || 1];
  const phaseAt = (list, t) => (list.find((phase) => t >= phase.begin && t < phase.end) || {name: ''}).name;
  const timeTitle = (list, t) => digits(t) + ' s' + (phaseAt(list, t) ? ', ' + phaseAt(list, t) : '');

  const memory = (panel, width, height) => {
    const layers = MEMORY.filter(([name]) => panel.columns[name + '_bytes']);
    const sums = [];
    layers.forEach(([name], k) => sums.push(panel.columns[name + '_bytes'].map((v, i) => v + (k ? sums[k - 1][i] : 0))));
    const most = Math.max(panel.limit, ...(sums.length ? sums[sums.length - 1] : []));
    return [base(width, height, {
      padding: [26, 14, 0, 0],
      scales: {x: {time: false, range: timeRange(panel.seconds)}, y: {range: [0, most * 1.13 || 1]}},
      axes: [timeAxis(), axis({values: (u, v) => v.map(formats.bytes), space: 40, size: sizeOfMarks, incrs: BINARY})],
      series: [{}, ...layers.map(hidden)],
      plugins: [tooltip((i) => [timeTitle(panel.phases, panel.seconds[i]),
        layers.map(([name, text]) => [name, text, formats.bytes(panel.columns[name + '_bytes'][i])]).reverse()])],
      hooks: {
        drawClear: [phases(panel.phases)],
        draw: [painting((ctx, at) => paintLayers(ctx, at, panel, layers, sums)), painting((ctx, at) => paintLimit(ctx, at, panel)),
               phaseNames(panel.phases)],
      },
    }), [panel.seconds, ...sums]];
  };

  const paintLayers = (ctx, at, panel, layers, sums) => {
    layers.forEach(([name], k) => {
      ctx.beginPath();
      panel.seconds.forEach((t, i) => ctx.lineTo(at.x(t), at.y(sums[k][i])));
      for (let i = panel.seconds.length - 1; i >= 0; --i) ctx.lineTo(at.x(panel.seconds[i]), at.y(k ? sums[k - 1][i] : 0));
      ctx.closePath();
      ctx.fillStyle = color(name);
      ctx.globalAlpha = name === 'free' ? 0.35 : 0.94;
      ctx.fill();
      ctx.globalAlpha = 1;
    });
  };

  const paintLimit = (ctx, at, panel) => {
    if (!panel.limit) return;
    const y = at.y(panel.limit);
    ctx.strokeStyle = ctx.fillStyle = color('ink');
    ctx.lineWidth = 1.5;
    ctx.setLineDash([5, 4]);
    line(ctx, at.left, y, at.left + at.width, y);
    ctx.setLineDash([]);
    ctx.font = font(11.5, 560);
    ctx.textAlign = 'right';
    ctx.textBaseline = 'bottom';
    ctx.fillText('limit ' + formats.bytes(panel.limit), at.left + at.width - 6, y - 3);
    ctx.textAlign = 'left';
  };

  const coverage = (panel, width, height) => {
    const named = panel.series.length > 1 && panel.series.length <= 6 && width >= 560;
    const columns = uPlot.join(panel.series.map((s) => [s.seconds, s.shares]));
    return [base(width, height, {
      padding: [26, named ? Math.min(220, widthOf(panel.series.map((s) => s.name)) + 14) : 14, 0, 0],
      scales: {x: {time: false, range: timeRange(columns[0])}, y: {range: [0, 1.02]}},
      axes: [timeAxis(), axis({values: (u, v) => v.map(formats.share), space: 40, size: sizeOfMarks, splits: () => [0, 0.25, 0.5, 0.75, 1]})],
      series: [{}, ...panel.series.map((s, k) => ({stroke: seriesColor(k), width: 2.4, spanGaps: true, points: {show: false},
        fill: panel.series.length === 1 ? seriesColor(k) + '22' : undefined, dash: k >= SERIES ? [6, 4] : undefined}))],
      plugins: [tooltip((i) => [timeTitle(panel.phases, columns[0][i]), panel.series.map((s, k) =>
        ['c' + k % SERIES, s.name || 'mapped by 2 MiB', columns[k + 1][i] == null ? '' : formats.share(columns[k + 1][i])])])],
      hooks: {drawClear: [phases(panel.phases)], draw: [phaseNames(panel.phases), painting((ctx, at) => {
        if (!named) return;
        ctx.font = font(13, 620);
        endLabels(ctx, panel.series.map((s, k) => ({text: fitting(ctx, s.name, 190), color: seriesColor(k),
          x: at.x(s.seconds[s.seconds.length - 1]) + 8, y: at.y(s.shares[s.shares.length - 1])})), at.top + 6, at.top + at.height - 6);
      }, false)]},
    }), columns];
  };

  // -------------------------------------------------------------------------------------------------------------------
  // Latencies: how many take longer than so long
  // -------------------------------------------------------------------------------------------------------------------

  const latency = (panel, width, height) => {
    // Where nothing is slower any more there is no place on a logarithmic axis.
    const columns = uPlot.join(panel.series.map((s) => [s.us, s.slower.map((v) => (v > 0 ? v : null))]));
    const shares = panel.series.flatMap((s) => s.slower.filter((v) => v > 0));
    const bounds = panel.series.flatMap((s) => s.us.filter((_, i) => s.slower[i] > 0));
    const down = (v) => 10 ** Math.floor(Math.log10(v) + 1e-9), up = (v) => 10 ** Math.ceil(Math.log10(v) - 1e-9);
    const lowest = shares.length ? Math.min(0.1, down(Math.min(...shares))) : 0.1;
    const from = bounds.length ? down(Math.min(...bounds)) : 1, to = bounds.length ? up(Math.max(...bounds)) : 10;
    const decades = (low, high) => { const all = []; for (let v = low; v <= high * 1.01; v *= 10) all.push(v); return all; };
    return [base(width, height, {
      padding: [14, 26, 0, 0],
      scales: {x: {time: false, distr: 3, range: [from, Math.max(to, from * 10)]}, y: {distr: 3, range: [lowest, 1]}},
      axes: [axis({splits: () => decades(from, Math.max(to, from * 10)), values: (u, v) => v.map(formats.us), filter: (u, v) => v, size: 26,
                   label: panel.of + ' that take this long or longer'}),
             axis({splits: () => decades(lowest, 1), values: (u, v) => v.map(shareSlower), filter: (u, v) => v, space: 40, size: sizeOfMarks})],
      series: [{}, ...panel.series.map((s, k) => ({stroke: seriesColor(k), width: 2.4, spanGaps: true, points: {show: false},
        dash: k >= SERIES ? [6, 4] : undefined}))],
      plugins: [tooltip((i) => [formats.us(columns[0][i]) + ' or longer', panel.series.map((s, k) => ['c' + k % SERIES,
        s.name || panel.of, columns[k + 1][i] == null ? 'none' : `${formats.share(columns[k + 1][i])}`])])],
      hooks: {draw: [painting((ctx, at) => panel.series.forEach((s, k) => [[0.5, s.p50], [0.01, s.p99]].forEach(([share, us]) => {
        if (us === null || share < lowest) return;
        ctx.fillStyle = seriesColor(k);
        ctx.strokeStyle = color('paper');
        ctx.lineWidth = 1.5;
        marker(ctx, k, at.x(us), at.y(share), 5);
        ctx.stroke();
      })), false)]},
    }), columns];
  };

  // -------------------------------------------------------------------------------------------------------------------
  // The page
  // -------------------------------------------------------------------------------------------------------------------

  const makers = {
    values: (panel, ...size) => (panel.x.numeric && panel.x.values.length > 1 ? lines : bars)(panel, ...size),
    memory, coverage, latency,
  };

  const heightFor = (width) => Math.round(Math.max(260, Math.min(400, width * 0.46)));

  const draw = (figure) => {
    const plot = figure.querySelector('.plot');
    const chart = data.charts[figure.dataset.chart];
    const width = plot.clientWidth;
    if (figure.drawing) figure.drawing.destroy();
    const [options, columns] = makers[chart.kind](chart.panels[figure.dataset.panel], width, heightFor(width));
    figure.drawing = new uPlot(options, columns, plot);
    figure.drawnWidth = width;
  };

  const figures = [...document.querySelectorAll('figure[data-panel]')];
  figures.forEach(draw);
  new ResizeObserver(() => figures.forEach((figure) => {
    if (figure.querySelector('.plot').clientWidth !== figure.drawnWidth) draw(figure);
  })).observe(document.querySelector('main'));
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => figures.forEach(draw));
  matchMedia('print').addEventListener('change', () => document.querySelectorAll('details').forEach((d) => { d.open = true; }));
  document.documentElement.dataset.drawn = figures.length;
})();
