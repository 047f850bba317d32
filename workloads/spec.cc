#include "workloads/spec.h"

#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/check.h"

namespace quire {
namespace {

// The largest whole number that every double up to it can hold exactly is 2^53; a round number below it reads better.
constexpr double kManyOperations = 1e15;

WorkloadKey Touched() {
  return {"touched", "share of the guest's memory that is used at all", 0.001, 1, 1, &WorkloadSpec::touched};
}
WorkloadKey Advise() {
  constexpr absl::string_view kDescription =
      "share of that, from its beginning, to ask whole blocks for (--huge=advise)";
  return {"advise", kDescription, 0, 1, 1, &WorkloadSpec::advise};
}
WorkloadKey Wired() {
  return {"wired", "share of that, from its beginning, that the guest wires: it stays in memory",
          0,       1,
          0,       &WorkloadSpec::wired};
}
WorkloadKey Common() {
  return {"common", "share of that, from its beginning, that all guests fill alike", 0, 1, 0, &WorkloadSpec::common};
}
WorkloadKey Written() {
  return {"written", "share of that, up to its end, that writes go to", 0, 1, 1, &WorkloadSpec::written};
}
WorkloadKey Writes(double fallback, absl::string_view description = "share of operations that write") {
  return {"writes", description, 0, 1, fallback, &WorkloadSpec::writes};
}
WorkloadKey Operations() {
  return {"operations",
          "stop after so many operations of all vCPUs together; 0: when the time is over",
          0,
          kManyOperations,
          0,
          &WorkloadSpec::operations};
}

std::vector<WorkloadInfo> MakeTable() {
  return {
      {WorkloadKind::kTouch,
       "touch",
       "write all pages in order, then read them in order, over and over",
       {Touched(), Advise(), Wired(), Common(), Written(), Writes(1, "share of the pages that a writing pass writes"),
        Operations()}},
      {WorkloadKind::kRandom,
       "random",
       "uniformly random pages",
       {Touched(), Advise(), Wired(), Common(), Written(), Writes(0.2), Operations()}},
      {WorkloadKind::kZipf,
       "zipf",
       "few pages take most operations (Zipf's law)",
       {Touched(),
        Advise(),
        Wired(),
        Common(),
        Written(),
        Writes(0.2),
        {"theta", "exponent; 0: uniform", 0, 4, 0.99, &WorkloadSpec::theta},
        {"scatter", "1: popular pages lie anywhere; 0: side by side, most popular first", 0, 1, 0,
         &WorkloadSpec::scatter},
        Operations()}},
      {WorkloadKind::kPhases,
       "phases",
       "uniformly random pages of a working set that moves on",
       {Touched(),
        Advise(),
        Wired(),
        Common(),
        Written(),
        Writes(0.2),
        {"set", "size of the working set, as a share of the memory that is used", 0.001, 1, 0.25, &WorkloadSpec::set},
        {"period", "operations of a vCPU before its working set moves on", 1, kManyOperations, 100000,
         &WorkloadSpec::period},
        Operations()}},
      {WorkloadKind::kScan,
       "scan",
       "all pages in order, over and over",
       {Touched(), Advise(), Wired(), Common(), Written(), Writes(0.2), Operations()}},
  };
}

// Input in an error message: printable, and short whatever was typed.
std::string Quoted(absl::string_view text) {
  constexpr size_t kLongest = 40;
  return absl::StrCat("'", absl::CHexEscape(text.substr(0, kLongest)), text.size() > kLongest ? "..." : "", "'");
}

template <class Items>
std::string Names(const Items& items) {
  return absl::StrJoin(items, ", ", [](std::string* out, const auto& item) { absl::StrAppend(out, item.name); });
}

template <class Items>
auto FindByName(const Items& items, absl::string_view name) -> decltype(&items[0]) {
  for (const auto& item : items)
    if (item.name == name) return &item;
  return nullptr;
}

bool IsWhole(const WorkloadKey& key) { return std::holds_alternative<uint64_t WorkloadSpec::*>(key.field); }

void SetField(const WorkloadKey& key, double value, WorkloadSpec& spec) {
  if (IsWhole(key)) {
    spec.*std::get<uint64_t WorkloadSpec::*>(key.field) = static_cast<uint64_t>(value);
  } else {
    spec.*std::get<double WorkloadSpec::*>(key.field) = value;
  }
}

double GetField(const WorkloadKey& key, const WorkloadSpec& spec) {
  return IsWhole(key) ? static_cast<double>(spec.*std::get<uint64_t WorkloadSpec::*>(key.field))
                      : spec.*std::get<double WorkloadSpec::*>(key.field);
}

// 16 digits print what was typed, 17 tell any two numbers apart.
std::string Number(double value) {
  const std::string text = absl::StrFormat("%.16g", value);
  double read = 0;
  return absl::SimpleAtod(text, &read) && read == value ? text : absl::StrFormat("%.17g", value);
}

std::string Range(const WorkloadKey& key) {
  return absl::StrCat(IsWhole(key) ? "a whole number from " : "from ", Number(key.lowest), " to ", Number(key.highest));
}

absl::Status ParseValue(const WorkloadInfo& workload, const WorkloadKey& key, absl::string_view text,
                        WorkloadSpec& spec) {
  double value = 0;
  const bool is_number = absl::SimpleAtod(text, &value) && !std::isnan(value);
  if (!is_number || value < key.lowest || value > key.highest || (IsWhole(key) && value != std::floor(value))) {
    return absl::InvalidArgumentError(absl::StrCat("--workload: ", key.name, "=", Quoted(text), " for ", workload.name,
                                                   " must be ", is_number || IsWhole(key) ? "" : "a number ",
                                                   Range(key)));
  }
  SetField(key, value, spec);
  return absl::OkStatus();
}

absl::Status ParseItem(const WorkloadInfo& workload, absl::string_view item, std::vector<const WorkloadKey*>& given,
                       WorkloadSpec& spec) {
  const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(item, absl::MaxSplits('=', 1));
  if (!absl::StrContains(item, '=')) {
    return absl::InvalidArgumentError(absl::StrCat("--workload: ", Quoted(item),
                                                   " is not of the form key=value; the keys of ", workload.name,
                                                   " are ", Names(workload.keys)));
  }
  const WorkloadKey* key = FindByName(workload.keys, parts.first);
  if (key == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("--workload: ", workload.name, " has no key ", Quoted(parts.first),
                                                   "; it has ", Names(workload.keys)));
  }
  for (const WorkloadKey* earlier : given) {
    if (earlier == key) {
      return absl::InvalidArgumentError(absl::StrCat("--workload: ", key->name, "= is given twice; give it once"));
    }
  }
  given.push_back(key);
  return ParseValue(workload, *key, parts.second, spec);
}

WorkloadSpec Defaults(const WorkloadInfo& workload) {
  WorkloadSpec spec;
  spec.kind = workload.kind;
  for (const WorkloadKey& key : workload.keys) SetField(key, key.fallback, spec);
  return spec;
}

}  // namespace

absl::Span<const WorkloadInfo> Workloads() {
  static const std::vector<WorkloadInfo>& table = *new std::vector<WorkloadInfo>(MakeTable());
  return table;
}

absl::StatusOr<WorkloadSpec> ParseWorkload(absl::string_view text) {
  const size_t colon = text.find(':');
  const WorkloadInfo* workload = FindByName(Workloads(), text.substr(0, colon));
  if (workload == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("--workload: there is no workload ", Quoted(text.substr(0, colon)),
                                                   "; there are ", Names(Workloads())));
  }
  WorkloadSpec spec = Defaults(*workload);
  if (colon == absl::string_view::npos) return spec;
  std::vector<const WorkloadKey*> given;
  for (absl::string_view item : absl::StrSplit(text.substr(colon + 1), ',')) {
    if (absl::Status status = ParseItem(*workload, item, given, spec); !status.ok()) return status;
  }
  return spec;
}

std::string FormatWorkload(const WorkloadSpec& spec) {
  for (const WorkloadInfo& workload : Workloads()) {
    if (workload.kind != spec.kind) continue;
    return absl::StrCat(workload.name, ":",
                        absl::StrJoin(workload.keys, ",", [&spec](std::string* out, const WorkloadKey& key) {
                          absl::StrAppend(out, key.name, "=", Number(GetField(key, spec)));
                        }));
  }
  QUIRE_CHECK(false);  // a spec comes from ParseWorkload, so its kind is in the table
}

constexpr size_t kHelpWidth = 110;

std::string WorkloadHelp() {
  std::string help;
  for (const WorkloadInfo& workload : Workloads()) {
    absl::StrAppendFormat(&help, "  %-8s %s\n", workload.name, workload.description);
    for (const WorkloadKey& key : workload.keys) {
      const std::string about = absl::StrFormat("    %-12s %s", absl::StrCat(key.name, "="), key.description);
      const std::string values = absl::StrFormat("(%s; default %s)", Range(key), Number(key.fallback));
      // On a line of its own where it would make the first one too long for a terminal.
      const bool fits = about.size() + 1 + values.size() <= kHelpWidth;
      absl::StrAppend(&help, about, fits ? " " : absl::StrCat("\n", std::string(17, ' ')), values, "\n");
    }
  }
  return help;
}

}  // namespace quire
