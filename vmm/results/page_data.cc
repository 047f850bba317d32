#include "vmm/results/page_data.h"

#include <optional>

#include "nlohmann/json.hpp"

namespace quire::results {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kPageDataForm = 1;

Json OrNull(const std::optional<double>& number) { return number ? Json(*number) : Json(nullptr); }

Json ToJson(const AxisValue& value) {
  if (const std::string* word = std::get_if<std::string>(&value)) return *word;
  return std::get<double>(value);
}

void AddInterval(const std::optional<Interval>& interval, Json& json) {
  json["low"] = interval ? Json(interval->low) : Json(nullptr);
  json["high"] = interval ? Json(interval->high) : Json(nullptr);
}

Json ToJson(const std::optional<Estimate>& estimate) {
  Json json{{"median", nullptr}, {"mean", nullptr}, {"least", nullptr}, {"most", nullptr}, {"values", Json::array()}};
  if (estimate) {
    json = {{"median", estimate->median},
            {"mean", estimate->mean},
            {"least", estimate->least},
            {"most", estimate->most},
            {"values", estimate->values}};
  }
  AddInterval(estimate ? estimate->confidence : std::nullopt, json);
  return json;
}

Json ToJson(const Place& place) {
  Json json{{"runs", place.runs}, {"killed", place.killed}, {"failed", place.failed}, {"lacking", place.lacking}};
  json.update(ToJson(place.estimate));
  return json;
}

Json ToJson(const Comparison& comparison) {
  Json json{{"pairs", comparison.pairs}, {"ratio", comparison.pairs > 0 ? Json(comparison.ratio) : Json(nullptr)}};
  AddInterval(comparison.confidence, json);
  return json;
}

Json ToJson(const Phase& phase) {
  return {{"name", phase.name}, {"begin", phase.begin}, {"end", phase.end}, {"measured", phase.measured}};
}

Json ToJson(const ValuesFigure::Series& series);
Json ToJson(const CoverageFigure::Series& series);
Json ToJson(const LatencyFigure::Series& series);
Json ToJson(const Panel& panel);
Json ToJson(const ChartFindings& chart);

template <class Element>
Json Array(const std::vector<Element>& elements) {
  Json array = Json::array();
  for (const Element& element : elements) array.push_back(ToJson(element));
  return array;
}

Json ToJson(const ValuesFigure::Series& series) { return {{"name", series.name}, {"places", Array(series.places)}}; }

Json ToJson(const ValuesFigure& figure) {
  Json json{{"key", figure.measure.key},
            {"name", figure.measure.name},
            {"unit", std::string(Name(figure.measure.unit))},
            {"better", figure.higher_is_better ? "higher" : "lower"},
            {"x", {{"name", figure.x_name}, {"numeric", figure.numeric}, {"values", Array(figure.xs)}}},
            {"series", Array(figure.series)},
            {"compared", nullptr},
            {"comparisons", Array(figure.comparisons)}};
  if (figure.compared) json["compared"] = {figure.compared->first, figure.compared->second};
  return json;
}

Json ToJson(const MemoryFigure& figure) {
  return {{"run", figure.run},
          {"seconds", figure.timeline.seconds},
          {"columns", figure.timeline.columns},
          {"limit", figure.limit},
          {"most_used", figure.most_used},
          {"most_compressed", figure.most_compressed},
          {"phases", Array(figure.phases)}};
}

Json ToJson(const CoverageFigure::Series& series) {
  Json json{{"name", series.name}, {"run", series.run}, {"seconds", series.seconds}, {"shares", series.shares}};
  json.update(ToJson(series.estimate));
  return json;
}

Json ToJson(const CoverageFigure& figure) {
  return {{"series", Array(figure.series)}, {"phases", Array(figure.phases)}};
}

Json ToJson(const LatencyFigure::Series& series) {
  return {{"name", series.name},       {"runs", series.runs},       {"count", series.count},
          {"us", series.histogram.us}, {"slower", series.slower},   {"p50", OrNull(series.p50)},
          {"p90", OrNull(series.p90)}, {"p99", OrNull(series.p99)}, {"p999", OrNull(series.p999)}};
}

Json ToJson(const LatencyFigure& figure) {
  return {{"of", figure.of_faults ? "faults" : "operations"}, {"series", Array(figure.series)}};
}

Json ToJson(const Panel& panel) {
  Json json{{"title", panel.title}};
  json.update(std::visit([](const auto& figure) { return ToJson(figure); }, panel.figure));
  return json;
}

Json ToJson(const ChartFindings& chart) {
  return {{"kind", Name(chart.chart.kind)}, {"title", chart.chart.title}, {"panels", Array(chart.panels)}};
}

}  // namespace

const char* Name(Chart::Kind kind) {
  switch (kind) {
    case Chart::Kind::kValues:
      return "values";
    case Chart::Kind::kMemory:
      return "memory";
    case Chart::Kind::kCoverage:
      return "coverage";
    case Chart::Kind::kLatency:
      return "latency";
  }
  return "";
}

std::string PageData(const std::vector<ChartFindings>& charts) {
  return Json{{"form", kPageDataForm}, {"charts", Array(charts)}}.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace quire::results
