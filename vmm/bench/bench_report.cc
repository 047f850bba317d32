#include "vmm/bench/bench_report.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "vmm/text.h"

namespace quire {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kBarColumns = 40;

template <class Get>
std::vector<double> Each(const std::vector<Measurement>& runs, Get get) {
  std::vector<double> all;
  for (const Measurement& run : runs) all.push_back(get(run));
  return all;
}

// Medians of what the runs say beside their values.
Json DetailsJson(const SideResult& result) {
  Json details = Json::object();
  for (const auto& [name, unused] : result.runs[0].details) {
    details[name] = Median(Each(result.runs, [&name = name](const Measurement& m) {
      const auto it = m.details.find(name);
      return it == m.details.end() ? 0 : it->second;
    }));
  }
  return details;
}

Json SideJson(const SideResult* result) {
  if (result == nullptr || result->runs.empty()) return nullptr;
  const std::vector<double> values = result->values();
  Json json{{"median", Median(values)},
            {"min", *std::min_element(values.begin(), values.end())},
            {"max", *std::max_element(values.begin(), values.end())},
            {"runs", values.size()},
            {"cpu_seconds", Median(Each(result->runs, [](const Measurement& m) { return m.cpu_seconds; }))},
            {"values", values}};
  if (Json details = DetailsJson(*result); !details.empty()) json["details"] = details;
  return json;
}

std::string Number(double value) {
  if (value >= 10'000) return FormatShort(value);
  if (value < 1) return absl::StrFormat("%.3f", value);
  return value < 100 ? absl::StrFormat("%.2f", value) : absl::StrFormat("%.0f", value);
}

std::string SideTitle(Side side) {
  switch (side) {
    case Side::kQuire:
      return "quire";
    case Side::kKernel:
      return "kernel, as it comes";
    case Side::kKernelBest:
      return "kernel, at its best";
    case Side::kKernelSmall:
      return "kernel, 4 KiB pages";
  }
  return "";
}

std::string BarOf(double value, double largest, const Terminal& terminal) {
  const int cells = largest > 0 ? std::max(1, static_cast<int>(value / largest * kBarColumns + 0.5)) : 0;
  std::string bar;
  for (int i = 0; i < cells; ++i) bar += terminal.unicode ? "\u2588" : "#";
  return bar;
}

std::string Verdict(const BenchReport& report, Side side) {
  const double ratio = *report.RatioTo(side);
  std::string text = absl::StrFormat("%.3g times the %s", ratio, SideTitle(side));
  if (const std::optional<Interval> bounds = report.BoundsOfRatioTo(side)) {
    absl::StrAppendFormat(&text, " (95%% sure: %.3f to %.3f)", bounds->low, bounds->high);
  }
  return text;
}

}  // namespace

std::vector<double> SideResult::values() const {
  return Each(runs, [](const Measurement& m) { return m.value; });
}

double SideResult::median() const { return Median(values()); }

const SideResult* BenchReport::Find(Side side) const {
  for (const SideResult& result : sides) {
    if (result.side == side && !result.runs.empty()) return &result;
  }
  return nullptr;
}

std::optional<double> BenchReport::RatioTo(Side side) const {
  const SideResult* const ours = Find(Side::kQuire);
  const SideResult* const theirs = Find(side);
  if (ours == nullptr || theirs == nullptr) return std::nullopt;
  return Advantage(*benchmark, ours->median(), theirs->median());
}

std::optional<Interval> BenchReport::BoundsOfRatioTo(Side side) const {
  const SideResult* const ours = Find(Side::kQuire);
  const SideResult* const theirs = Find(side);
  if (!benchmark->paired || ours == nullptr || theirs == nullptr) return std::nullopt;
  std::vector<double> ratios;
  for (size_t i = 0; i < std::min(ours->runs.size(), theirs->runs.size()); ++i) {
    ratios.push_back(Advantage(*benchmark, ours->runs[i].value, theirs->runs[i].value));
  }
  if (ratios.size() < 2) return std::nullopt;
  return ConfidenceOfMean(ratios);
}

uint64_t BenchReport::mismatched_pages() const {
  uint64_t pages = 0;
  for (const SideResult& result : sides) {
    for (const Measurement& run : result.runs) pages += run.mismatched_pages;
  }
  return pages;
}

std::string ToJson(const BenchReport& report) {
  Json json{{"name", report.benchmark->name},
            {"what", report.benchmark->what},
            {"unit", report.benchmark->unit},
            {"higher_is_better", report.benchmark->higher_is_better},
            {"quire", SideJson(report.Find(Side::kQuire))},
            {"kernel", SideJson(report.Find(Side::kKernel))}};
  for (const auto& [side, key] : {std::pair{Side::kKernelBest, "kernel_best"}, {Side::kKernelSmall, "kernel_small"}}) {
    if (report.Find(side) == nullptr) continue;
    json[key] = SideJson(report.Find(side));
    json[absl::StrCat("ratio_to_", key)] = *report.RatioTo(side);
  }
  const std::optional<double> ratio = report.RatioTo(Side::kKernel);
  json["ratio"] = ratio.has_value() ? Json(*ratio) : Json(nullptr);
  if (const std::optional<Interval> bounds = report.BoundsOfRatioTo(Side::kKernel)) {
    json["ratio_95_percent"] = Json{{"low", bounds->low}, {"high", bounds->high}};
  }
  if (!report.kernel_unavailable.empty()) json["kernel_unavailable"] = report.kernel_unavailable;
  json["mismatched_pages"] = report.mismatched_pages();
  if (const SideResult* ours = report.Find(Side::kQuire)) json["content_ratio"] = ours->runs[0].content_ratio;
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string Summary(const BenchReport& report, const Terminal& terminal) {
  std::string text = "\n";
  double largest = 0;
  for (const SideResult& result : report.sides) {
    if (!result.runs.empty()) largest = std::max(largest, result.median());
  }
  for (const SideResult& result : report.sides) {
    if (result.runs.empty()) continue;
    const std::vector<double> values = result.values();
    absl::StrAppendFormat(&text, "%-20s %10s %s, %s to %s\n%-20s %s\n", SideTitle(result.side), Number(result.median()),
                          report.benchmark->unit, Number(*std::min_element(values.begin(), values.end())),
                          Number(*std::max_element(values.begin(), values.end())), "",
                          BarOf(result.median(), largest, terminal));
  }
  if (!report.kernel_unavailable.empty()) {
    absl::StrAppend(&text, "The host kernel's side was not measured: ", Sentence(report.kernel_unavailable), "\n");
  }
  std::vector<std::string> verdicts;
  for (const Side side : {Side::kKernel, Side::kKernelBest, Side::kKernelSmall}) {
    if (report.RatioTo(side).has_value()) verdicts.push_back(Verdict(report, side));
  }
  if (!verdicts.empty()) absl::StrAppend(&text, "\nQuire is as good as ", verdicts[0]);
  for (size_t i = 1; i < verdicts.size(); ++i) absl::StrAppend(&text, ", ", verdicts[i]);
  if (!verdicts.empty()) absl::StrAppend(&text, ".\n");
  absl::StrAppend(&text, FormatCount(report.mismatched_pages()), " pages were wrong.\n");
  return text;
}

std::string RunLine(const BenchReport& report, int run, int runs) {
  std::string text = absl::StrFormat("run %d of %d:", run, runs);
  for (const SideResult& result : report.sides) {
    if (static_cast<int>(result.runs.size()) < run) continue;
    absl::StrAppendFormat(&text, "  %s %s", Name(result.side), Number(result.runs.back().value));
  }
  return absl::StrCat(text, " ", report.benchmark->unit, "\n");
}

ExitStatus ToExitStatus(const BenchReport& report) {
  return report.mismatched_pages() > 0 ? ExitStatus::kGuestFailed : ExitStatus::kAllWell;
}

}  // namespace quire
