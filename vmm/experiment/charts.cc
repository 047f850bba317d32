#include "vmm/experiment/charts.h"

#include <algorithm>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "vmm/experiment/experiment.h"
#include "vmm/text.h"

namespace quire {
namespace {

using Json = nlohmann::json;

constexpr absl::string_view kValueNames[] = {
    "operations_per_second", "cpu_seconds",     "memory_bytes",     "peak_memory_bytes",
    "guest_memory_bytes",    "saved_bytes",     "huge_share",       "faults_per_second",
    "latency_p50_us",        "latency_p99_us",  "fault_p50_us",     "fault_p99_us",
    "guests_that_ran",       "guests_that_fit", "mismatched_pages", "wall_seconds",
};
// What guests with a kernel report on their consoles, by their own words.
constexpr absl::string_view kConsolePrefix = "console.";

const std::vector<std::string>& Kinds() {
  static const auto* kinds = new std::vector<std::string>{"values", "memory", "coverage", "latency"};
  return *kinds;
}

class ChartReader {
 public:
  ChartReader(const std::string& file, const ConfigNode& table, const std::vector<Axis>& axes)
      : reader_(file, "[[charts]]", table), axes_(axes) {}

  absl::StatusOr<Json> Read() {
    Json chart = {{"kind", "values"}};
    for (const absl::string_view key : {"kind", "title", "x", "y", "series", "better", "of"}) ReadWord(key, chart);
    ReadCompare(chart);
    ReadAt(chart);
    if (reader_.ok()) Check(chart);
    if (absl::Status status = reader_.Finish(); !status.ok()) return status;
    return chart;
  }

 private:
  void ReadWord(absl::string_view key, Json& chart) {
    std::optional<std::string> word;
    reader_.Read(key, word);
    if (word.has_value()) chart[std::string(key)] = *word;
  }

  void ReadCompare(Json& chart) {
    const ConfigNode* const node = reader_.Note("compare");
    if (node == nullptr) return;
    chart["compare"] = node->ToJson();
    const bool two = node->array.size() == 2 && node->array[0].kind == ConfigNode::Kind::kScalar &&
                     node->array[1].kind == ConfigNode::Kind::kScalar;
    if (!two) reader_.Fail("compare", "compare is to be two values of the series, such as [\"quire\", \"kernel\"]");
  }

  void ReadAt(Json& chart) {
    const ConfigNode* const at = reader_.Table("at");
    if (at == nullptr) return;
    chart["at"] = Json::object();
    ReadPlace(*at, "", chart["at"]);
  }

  // guests.idle.count, with dots and without quotes, is a table in a table.
  void ReadPlace(const ConfigNode& table, const std::string& prefix, Json& at) {
    for (const auto& [key, node] : table.table) {
      const std::string name = absl::StrCat(prefix, key);
      if (node.kind == ConfigNode::Kind::kTable) {
        ReadPlace(node, name + ".", at);
        continue;
      }
      at[name] = node.ToJson();
      CheckValue("at", name, at[name]);
    }
  }

  const Axis* Find(absl::string_view name) const {
    const auto found = std::find_if(axes_.begin(), axes_.end(), [&](const Axis& axis) { return axis.name == name; });
    return found == axes_.end() ? nullptr : &*found;
  }

  std::string AxisNames() const {
    if (axes_.empty()) return "nothing is";
    return absl::StrCat("there are ", absl::StrJoin(axes_, ", ", [](std::string* out, const Axis& axis) {
                          absl::StrAppend(out, axis.name);
                        }));
  }

  void CheckAxis(absl::string_view key, const Json& chart) {
    const std::string name = chart.value(std::string(key), "");
    if (name.empty() || Find(name) != nullptr) return;
    reader_.Fail(
        key, absl::StrCat(key, " is to be something that [matrix] sweeps, and ", name, " is not swept: ", AxisNames()));
  }

  void CheckValue(absl::string_view key, const std::string& name, const Json& value) {
    const Axis* const axis = Find(name);
    if (axis == nullptr) {
      return reader_.Fail(key, absl::StrCat(name, " is not swept by [matrix]: ", AxisNames()));
    }
    if (std::find(axis->values.begin(), axis->values.end(), value) != axis->values.end()) return;
    reader_.Fail(key, absl::StrCat(name, " never takes the value ",
                                   value.dump(-1, ' ', false, Json::error_handler_t::replace), " in [matrix]"));
  }

  void Check(Json& chart) {
    const std::string kind = chart["kind"];
    if (std::find(Kinds().begin(), Kinds().end(), kind) == Kinds().end()) {
      return reader_.Fail("kind", absl::StrCat("there are charts of ", absl::StrJoin(Kinds(), ", ")));
    }
    CheckAxis("x", chart);
    CheckAxis("series", chart);
    if (kind == "values") CheckValues(chart);
    if (chart.contains("of") && (kind != "latency" || (chart["of"] != "operations" && chart["of"] != "faults"))) {
      return reader_.Fail("of", "of is for charts of latencies: \"operations\" or \"faults\"");
    }
    if (chart.contains("better") && chart["better"] != "higher" && chart["better"] != "lower") {
      return reader_.Fail("better", "better is to be \"higher\" or \"lower\"");
    }
    const std::string series = chart.value("series", "");
    if (!chart.contains("compare")) return;
    if (series.empty()) return reader_.Fail("compare", "compare names two values of the series: write series too");
    for (const Json& value : chart["compare"]) CheckValue("compare", series, value);
    if (chart["compare"][0] == chart["compare"][1]) {
      reader_.Fail("compare", "compare names the same value twice: write two values of the series");
    }
  }

  void CheckValues(Json& chart) {
    if (!chart.contains("x")) return reader_.Fail("x", "a chart of values needs x, something that [matrix] sweeps");
    const std::string y = chart.value("y", "");
    const auto names = ValueNames();
    if (std::find(names.begin(), names.end(), y) == names.end() &&
        (!absl::StartsWith(y, kConsolePrefix) || y.size() == kConsolePrefix.size())) {
      return reader_.Fail(
          "y", absl::StrCat("a chart of values needs y, one of ", absl::StrJoin(names, ", "), ", or console.KEY"));
    }
    if (!chart.contains("better")) chart["better"] = "higher";
    if (!chart.contains("title")) chart["title"] = absl::StrCat(y, " against ", chart["x"].get<std::string>());
  }

  ConfigReader reader_;
  const std::vector<Axis>& axes_;
};

// One of the throughput, if anything is swept beside the engine.
Json DefaultCharts(const std::vector<Axis>& axes) {
  Json chart = {{"kind", "values"}, {"title", "Throughput"}, {"y", "operations_per_second"}, {"better", "higher"}};
  for (const Axis& axis : axes) {
    if (axis.name == "engine") chart["series"] = axis.name;
    if (axis.name == "engine" && axis.values.size() > 1) chart["compare"] = {axis.values[0], axis.values[1]};
    if (axis.name != "engine" && !chart.contains("x")) chart["x"] = axis.name;
  }
  Json charts = Json::array();
  if (!axes.empty() && !chart.contains("x")) {
    chart["x"] = "engine";
    chart.erase("series");
    chart.erase("compare");
  }
  if (!axes.empty()) charts.push_back(chart);
  charts.push_back({{"kind", "memory"}, {"title", "Where the memory goes"}});
  return charts;
}

}  // namespace

absl::Span<const absl::string_view> ValueNames() { return kValueNames; }

absl::StatusOr<Json> ReadCharts(const std::string& file, const ConfigNode* charts, const std::vector<Axis>& axes) {
  if (charts == nullptr) return DefaultCharts(axes);
  Json read = Json::array();
  for (const ConfigNode& table : charts->array) {
    absl::StatusOr<Json> chart = ChartReader(file, table, axes).Read();
    if (!chart.ok()) return chart.status();
    read.push_back(*std::move(chart));
  }
  return read;
}

}  // namespace quire
