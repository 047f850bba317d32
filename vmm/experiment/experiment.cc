#include "vmm/experiment/experiment.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "vmm/experiment/charts.h"
#include "vmm/experiment/config.h"
#include "vmm/files.h"
#include "vmm/guest_set.h"
#include "vmm/pc_options.h"
#include "vmm/swap_spec.h"
#include "vmm/text.h"

namespace quire {
namespace {

using Json = nlohmann::json;

constexpr ByteCount kLongestFile = ByteCount::MiB(1);
constexpr double kLongestPhase = 7 * 24 * 3600;  // seconds
constexpr int64_t kMostGuests = 1024;
constexpr int64_t kMostRepetitions = 1000;
constexpr double kMostOvercommit = 1000;
constexpr double kMostMemory = 1e18;  // bytes
constexpr absl::string_view kSwapInRam = "ram";

// What a group's name, and an axis's, is made of: it stands in names of guests and of runs.
bool IsName(absl::string_view name) {
  return !name.empty() && name.size() <= 40 && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '-' || c == '_';
  });
}

absl::Status CheckName(absl::string_view file, int line, absl::string_view what, absl::string_view name) {
  if (IsName(name)) return absl::OkStatus();
  return ConfigError(file, line,
                     absl::StrCat(what, " cannot be named \"", name.substr(0, 60),
                                  "\": write a name of letters, digits, - and _, at most 40 of them"));
}

// ---------------------------------------------------------------------------------------------------------------------
// One setting of everything
// ---------------------------------------------------------------------------------------------------------------------

class VariantReader {
 public:
  VariantReader(const std::string& file, const ConfigNode& root, const RunLimits& limits)
      : file_(file), root_(root), limits_(limits) {}

  absl::StatusOr<Variant> Read();

 private:
  absl::Status ReadGroups();
  absl::Status ReadGroup(const std::string& name, const ConfigNode& table);
  absl::Status ReadRun(const ConfigNode& table);
  absl::Status ReadKernel(const std::optional<std::string>& kernel, const std::optional<std::string>& initrd, int line);
  absl::Status ReadSwap(const std::vector<std::string>& stores, int line);
  absl::Status ReadPhases();
  absl::StatusOr<Phase> ReadPhase(const ConfigNode& table);
  absl::Status BadOption(int line, absl::string_view sentence) const;
  // Of a key of a phase that names groups.
  absl::StatusOr<size_t> FindGroup(absl::string_view name, int line) const;
  absl::Status ReadLoads(const ConfigNode* table, Phase& phase) const;
  absl::Status ReadBalloons(const ConfigNode* table, Phase& phase) const;
  absl::Status ReadOneByOne(const ConfigNode* table, Phase& phase) const;
  // Groups start and stop once each, in this order.
  absl::Status CheckOrder(const Schedule& schedule, int line) const;
  absl::Status CheckGroupKeys() const;
  absl::Status Check(const ConfigNode& run) const;

  const std::string& file_;
  const ConfigNode& root_;
  const RunLimits& limits_;
  Variant variant_;
  double seconds_ = 10;
};

absl::StatusOr<Variant> VariantReader::Read() {
  variant_.options.reclaim_threads = DefaultReclaimThreads();
  variant_.options.json.reset();
  variant_.options.control.reset();
  ConfigReader reader(file_, "the file", root_);
  int64_t seed = 1;
  reader.ReadWhole("seed", 0, int64_t{1} << 53, seed);
  variant_.options.seed = static_cast<uint64_t>(seed);
  const ConfigNode* const run = reader.Table("run");
  if (!reader.ok()) return reader.Finish();
  static const ConfigNode* const kEmpty = new ConfigNode{.kind = ConfigNode::Kind::kTable, .line = 1};
  if (absl::Status status = ReadGroups(); !status.ok()) return status;
  if (absl::Status status = ReadRun(run == nullptr ? *kEmpty : *run); !status.ok()) return status;
  if (absl::Status status = CheckGroupKeys(); !status.ok()) return status;
  if (absl::Status status = ReadPhases(); !status.ok()) return status;
  if (absl::Status status = Check(run == nullptr ? *kEmpty : *run); !status.ok()) return status;
  for (const absl::string_view part : {"seed", "run", "guests", "phases"}) {
    if (const ConfigNode* const node = root_.Find(part)) variant_.settings[std::string(part)] = node->ToJson();
  }
  return std::move(variant_);
}

absl::Status VariantReader::ReadGroups() {
  const ConfigNode* const guests = root_.Find("guests");
  if (guests == nullptr || guests->kind != ConfigNode::Kind::kTable || guests->table.empty()) {
    return ConfigError(file_, guests == nullptr ? root_.line : guests->line,
                       "there are no guests: write [guests.NAME] and count, memory and workload below");
  }
  for (const auto& [name, table] : guests->table) {
    if (absl::Status status = CheckName(file_, table.line, "a group of guests", name); !status.ok()) return status;
    if (table.kind != ConfigNode::Kind::kTable) {
      return ConfigError(file_, table.line,
                         absl::StrCat(name, " in [guests] is no group of guests: write [guests.", name, "]"));
    }
    if (absl::Status status = ReadGroup(name, table); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status VariantReader::ReadGroup(const std::string& name, const ConfigNode& table) {
  const std::string where = absl::StrCat("[guests.", name, "]");
  ConfigReader reader(file_, where, table);
  GuestGroup group{.name = name,
                   .memory = ByteCount::MiB(256),
                   .workload = "zipf",
                   .command_line = std::string(PcOptions::kDefaultCommandLine)};
  int64_t count = 1, vcpus = 1, load = 100;
  std::optional<ByteCount> memory;
  reader.ReadWhole("count", 1, kMostGuests, count);
  reader.ReadSize("memory", memory);
  reader.ReadWhole("vcpus", 1, QUIRE_MAX_VCPUS, vcpus);
  reader.Read("workload", group.workload);
  reader.Read("cmdline", group.command_line);
  reader.ReadWhole("load", 0, 100, load);
  group.guests = static_cast<int>(count);
  group.vcpus = static_cast<int>(vcpus);
  group.memory = memory.value_or(group.memory);
  group.idle_percent = static_cast<int>(100 - load);
  variant_.options.groups.push_back(std::move(group));
  return reader.Finish();
}

absl::Status VariantReader::ReadRun(const ConfigNode& table) {
  RunOptions& options = variant_.options;
  ConfigReader reader(file_, "[run]", table);
  std::optional<ByteCount> pool;
  std::optional<std::string> kernel, initrd;
  double overcommit = 0;
  std::vector<std::string> swap;
  reader.ReadEnum("engine", {Contender::kQuire, Contender::kKernel, Contender::kKernelBest, Contender::kQemu},
                  variant_.contender);
  reader.ReadEnum("accel", {Accel::kAuto, Accel::kKvm, Accel::kSoft}, options.accel);
  reader.ReadEnum("merge", {Merge::kOn, Merge::kOff}, options.merge);
  reader.ReadEnum("huge", {Huge::kAlways, Huge::kAdvise, Huge::kNever}, options.huge);
  reader.ReadSize("pool", pool);
  reader.ReadNumber("overcommit", 0.1, kMostOvercommit, overcommit);
  reader.ReadStrings("swap", swap);
  reader.ReadNumber("seconds", 0.1, kLongestPhase, seconds_);
  reader.ReadNumber("compressibility", 1, 100, options.compressibility);
  reader.Read("content", options.content);
  reader.Read("kernel", kernel);
  reader.Read("initrd", initrd);
  reader.Read("uri", variant_.uri);
  if (pool.has_value() && overcommit > 0) {
    reader.Fail("overcommit", "pool and overcommit both say how much memory there is: write only one of them");
  }
  if (variant_.on_qemu() && !kernel.has_value()) {
    reader.Fail(
        "engine",
        "engine = \"qemu\" is for guests that boot a kernel, and these run a workload of Quire's own: write "
        "kernel = \"auto\" or kernel = \"FILE\" in [run], and cmdline instead of workload in each [guests.NAME]");
  }
  if (absl::Status status = reader.Finish(); !status.ok()) return status;
  options.engine = variant_.on_kernel() ? Engine::kKernel : Engine::kQuire;
  // What is more than any number of bytes is refused by Check.
  double wanted = 0;
  for (const GuestGroup& group : options.groups) wanted += static_cast<double>(group.memory.in_bytes()) * group.guests;
  wanted = std::min(wanted / (overcommit > 0 ? overcommit : 2), kMostMemory);
  // The pool is had by whole blocks.
  options.pool = pool.value_or(
      PageCount::OfBlocks(PageCount::Ceil(ByteCount::Bytes(static_cast<uint64_t>(wanted))).in_blocks_ceil()).bytes());
  if (absl::Status status = ReadKernel(kernel, initrd, table.line); !status.ok()) return status;
  return ReadSwap(swap, table.line);
}

absl::Status VariantReader::ReadKernel(const std::optional<std::string>& kernel,
                                       const std::optional<std::string>& initrd, int line) {
  if (!kernel.has_value()) {
    if (!initrd.has_value()) return absl::OkStatus();
    return ConfigError(file_, line, "initrd in [run] is for a kernel: write kernel = \"FILE\" or \"auto\" too");
  }
  PcOptions pc{.kernel = *kernel, .initrd = initrd};
  if (*kernel == PcOptions::kAutomatic) {
    const absl::StatusOr<std::string> found = FindKernel("/boot");
    if (!found.ok()) return BadOption(line, found.status().message());
    pc.kernel = *found;
    pc.own_initramfs = !initrd.has_value();
  }
  pc.console = ConsoleTarget{.kind = ConsoleTarget::Kind::kLines};
  variant_.options.pc = std::move(pc);
  return absl::OkStatus();
}

absl::Status VariantReader::ReadSwap(const std::vector<std::string>& stores, int line) {
  if (stores.empty() || (stores.size() == 1 && stores[0] == kSwapInRam)) return absl::OkStatus();
  absl::StatusOr<std::vector<SwapSpec>> swap = ParseSwap(absl::StrJoin(stores, ","));
  if (!swap.ok()) return BadOption(line, swap.status().message());
  variant_.options.swap = *std::move(swap);
  return absl::OkStatus();
}

// Options are spoken of as flags.
absl::Status VariantReader::BadOption(int line, absl::string_view sentence) const {
  return ConfigError(file_, line, absl::StrReplaceAll(sentence, {{"--", ""}}));
}

absl::StatusOr<size_t> VariantReader::FindGroup(absl::string_view name, int line) const {
  const std::vector<GuestGroup>& groups = variant_.options.groups;
  for (size_t i = 0; i < groups.size(); ++i) {
    if (groups[i].name == name) return i;
  }
  return ConfigError(file_, line,
                     absl::StrCat("there are no guests named ", name, ": there are ",
                                  absl::StrJoin(groups, ", ", [](std::string* out, const GuestGroup& group) {
                                    absl::StrAppend(out, group.name);
                                  })));
}

absl::Status VariantReader::ReadPhases() {
  Schedule schedule;
  const ConfigNode* const phases = root_.Find("phases");
  if (phases == nullptr) {
    schedule.phases.push_back({.name = "run", .duration = absl::Seconds(seconds_)});
    variant_.options.schedule = std::move(schedule);
    return absl::OkStatus();
  }
  ConfigReader reader(file_, "the file", root_);
  if (reader.Tables("phases") == nullptr) {
    reader.Fail("phases", "phases are an array of tables: write [[phases]] before the keys of each");
    return reader.Finish().ok() ? ConfigError(file_, phases->line, "phases cannot be read") : reader.Finish();
  }
  for (const ConfigNode& table : phases->array) {
    absl::StatusOr<Phase> phase = ReadPhase(table);
    if (!phase.ok()) return phase.status();
    schedule.phases.push_back(*std::move(phase));
    if (absl::Status status = CheckOrder(schedule, table.line); !status.ok()) return status;
  }
  if (schedule.phases.empty()) return ConfigError(file_, phases->line, "there are no phases: leave the key out");
  variant_.options.schedule = std::move(schedule);
  return absl::OkStatus();
}

// What its last phase starts and stops. Guests that are told to stop do not start again; so it would do nothing.
absl::Status VariantReader::CheckOrder(const Schedule& schedule, int line) const {
  const auto starts = [](const Phase& phase, size_t group) {
    return std::count(phase.start.begin(), phase.start.end(), group) +
           (phase.one_by_one.has_value() && phase.one_by_one->group == group);
  };
  for (size_t group = 0; group < variant_.options.groups.size(); ++group) {
    int64_t started = 0, stopped = 0;
    for (const Phase& phase : schedule.phases) {
      started += starts(phase, group);
      stopped += std::count(phase.stop.begin(), phase.stop.end(), group);
    }
    const Phase& last = schedule.phases.back();
    const std::string& name = variant_.options.groups[group].name;
    if (starts(last, group) > 0 && started > 1) {
      return ConfigError(file_, line, absl::StrCat(name, " start twice: a group starts once, in one phase"));
    }
    if (starts(last, group) > 0 && stopped > 0) {
      return ConfigError(file_, line,
                         absl::StrCat(name, " cannot start where they stop, or later: they stop for good"));
    }
    if (last.stop.end() != std::find(last.stop.begin(), last.stop.end(), group) && stopped > 1) {
      return ConfigError(file_, line, absl::StrCat(name, " stop twice: a group stops once, in one phase"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Phase> VariantReader::ReadPhase(const ConfigNode& table) {
  ConfigReader reader(file_, "[[phases]]", table);
  Phase phase{.name = "run"};
  double seconds = seconds_;
  std::vector<std::string> start, stop;
  reader.Read("name", phase.name);
  reader.ReadNumber("seconds", 0.1, kLongestPhase, seconds);
  reader.Read("measured", phase.measured);
  reader.ReadStrings("start", start);
  reader.ReadStrings("stop", stop);
  const ConfigNode* const load = reader.Table("load");
  const ConfigNode* const balloon = reader.Table("balloon");
  const ConfigNode* const one_by_one = reader.Table("one_by_one");
  if (absl::Status status = reader.Finish(); !status.ok()) return status;
  phase.duration = absl::Seconds(seconds);
  for (const auto& [names, groups] : {std::pair(&start, &phase.start), std::pair(&stop, &phase.stop)}) {
    for (const std::string& name : *names) {
      const absl::StatusOr<size_t> group = FindGroup(name, table.line);
      if (!group.ok()) return group.status();
      groups->push_back(*group);
    }
  }
  if (absl::Status status = ReadLoads(load, phase); !status.ok()) return status;
  if (absl::Status status = ReadBalloons(balloon, phase); !status.ok()) return status;
  if (absl::Status status = ReadOneByOne(one_by_one, phase); !status.ok()) return status;
  return phase;
}

absl::Status VariantReader::ReadLoads(const ConfigNode* table, Phase& phase) const {
  if (table == nullptr) return absl::OkStatus();
  if (variant_.options.pc.has_value()) {
    return ConfigError(file_, table->line, "the load of guests with a kernel cannot be changed: leave load out");
  }
  ConfigReader reader(file_, "load", *table);
  for (const auto& [name, node] : table->table) {
    const absl::StatusOr<size_t> group = FindGroup(name, node.line);
    if (!group.ok()) return group.status();
    int64_t load = 100;
    reader.ReadWhole(name, 0, 100, load);
    phase.idle_percent[*group] = static_cast<int>(100 - load);
  }
  return reader.Finish();
}

absl::Status VariantReader::ReadBalloons(const ConfigNode* table, Phase& phase) const {
  if (table == nullptr) return absl::OkStatus();
  if (!variant_.options.pc.has_value()) {
    return ConfigError(file_, table->line, "only guests with a kernel have a balloon: leave balloon out");
  }
  ConfigReader reader(file_, "balloon", *table);
  for (const auto& [name, node] : table->table) {
    const absl::StatusOr<size_t> group = FindGroup(name, node.line);
    if (!group.ok()) return group.status();
    std::optional<ByteCount> size;
    reader.ReadSize(name, size);
    if (size.has_value() && *size >= variant_.options.groups[*group].memory) {
      reader.Fail(name, absl::StrCat("a balloon of ", FormatSize(*size), " would leave nothing of the ",
                                     FormatSize(variant_.options.groups[*group].memory), " that ", name, " have"));
    }
    phase.balloon[*group] = size.value_or(ByteCount());
  }
  return reader.Finish();
}

absl::Status VariantReader::ReadOneByOne(const ConfigNode* table, Phase& phase) const {
  if (table == nullptr) return absl::OkStatus();
  ConfigReader reader(file_, "one_by_one", *table);
  std::string name;
  double every = 0.5;
  reader.Read("guests", name);
  reader.ReadNumber("every", 0.01, kLongestPhase, every);
  if (absl::Status status = reader.Finish(); !status.ok()) return status;
  const absl::StatusOr<size_t> group = FindGroup(name, table->line);
  if (!group.ok()) return group.status();
  phase.one_by_one = {.group = *group, .every = absl::Seconds(every)};
  return absl::OkStatus();
}

absl::Status VariantReader::CheckGroupKeys() const {
  const bool kernel = variant_.options.pc.has_value();
  for (const auto& [name, table] : root_.Find("guests")->table) {
    for (const absl::string_view key : {"workload", "load", "cmdline"}) {
      const ConfigNode* const node = table.Find(key);
      if (node == nullptr || kernel == (key == "cmdline")) continue;
      return ConfigError(file_, node->line,
                         absl::StrCat(key, " in [guests.", name, "] is for guests ", kernel ? "without" : "with",
                                      " a kernel: leave it out", kernel ? "" : ", or write kernel in [run]"));
    }
  }
  return absl::OkStatus();
}

// The guests that run whatever becomes of the others: of those that come one after another, the first.
RunOptions AtFirst(RunOptions options) {
  for (const Phase& phase : options.schedule->phases) {
    if (phase.one_by_one.has_value()) options.groups[phase.one_by_one->group].guests = 1;
  }
  return options;
}

absl::Status VariantReader::Check(const ConfigNode& run) const {
  RunLimits limits = limits_;
  if (!variant_.on_kernel()) limits.minimum_pool = MinimumPool(AtFirst(variant_.options));
  const auto line_of = [&run](absl::string_view key) {
    const ConfigNode* const node = run.Find(key);
    return node == nullptr ? run.line : node->line;
  };
  RunOptions checked = variant_.options;
  if (variant_.on_qemu()) checked.accel = Accel::kAuto;  // QEMU can do without KVM
  if (absl::Status status = Validate(checked, limits); !status.ok()) {
    const absl::string_view sentence = status.message();
    for (const GuestGroup& group : variant_.options.groups) {
      const std::string whose = absl::StrCat("guests \"", group.name, "\": ");
      if (!absl::StartsWith(sentence, whose)) continue;
      const absl::string_view what = sentence.substr(whose.size());
      for (const absl::string_view key : {"pool", "swap", "kernel", "content"}) {
        if (absl::StartsWith(what, absl::StrCat("--", key))) return BadOption(line_of(key), what);
      }
      return BadOption(root_.Find("guests")->Find(group.name)->line, sentence);
    }
    return BadOption(run.line, sentence);
  }
  if (variant_.options.pool > limits.host_memory) {
    return BadOption(line_of("pool"),
                     absl::StrCat("a pool of ", FormatSize(variant_.options.pool), " is more than the ",
                                  FormatSize(limits.host_memory), " that this host has"));
  }
  const absl::Status files = CheckFiles(variant_.options);
  return files.ok() ? files : BadOption(run.line, files.message());
}

// ---------------------------------------------------------------------------------------------------------------------
// The matrix
// ---------------------------------------------------------------------------------------------------------------------

struct Swept {
  Axis axis;
  int line = 0;
  std::string path;  // in the file
  std::vector<ConfigNode> nodes = {};
};

class MatrixReader {
 public:
  MatrixReader(const std::string& file, const ConfigNode& root) : file_(file), root_(root) {}

  absl::Status Read(const ConfigNode& matrix) { return ReadTable(matrix, ""); }
  // `total`: of variants.
  absl::Status Count(int repetitions, uint64_t& total) const;
  std::vector<Swept>& swept() { return swept_; }

 private:
  absl::Status ReadTable(const ConfigNode& table, const std::string& prefix);
  absl::Status ReadAxis(const std::string& name, const ConfigNode& node);

  const std::string& file_;
  const ConfigNode& root_;
  std::vector<Swept> swept_;
};

absl::Status MatrixReader::ReadTable(const ConfigNode& table, const std::string& prefix) {
  for (const auto& [key, node] : table.table) {
    const std::string name = prefix.empty() ? key : absl::StrCat(prefix, ".", key);
    const absl::Status status = node.kind == ConfigNode::Kind::kTable ? ReadTable(node, name) : ReadAxis(name, node);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status MatrixReader::ReadAxis(const std::string& name, const ConfigNode& node) {
  if (node.kind != ConfigNode::Kind::kArray || node.array.empty()) {
    return ConfigError(
        file_, node.line,
        absl::StrCat(name, " in [matrix] is to be an array of the values that it takes, such as [1, 2]"));
  }
  const bool of_guests = absl::StartsWith(name, "guests.");
  if (absl::StrContains(name, ".") && !of_guests) {
    return ConfigError(file_, node.line,
                       absl::StrCat(name, " cannot be swept: write a key of [run], or guests.NAME.KEY"));
  }
  Swept swept{.axis = {.name = name}, .line = node.line, .path = of_guests ? name : absl::StrCat("run.", name)};
  std::set<std::string> seen;
  std::set<double> numbers;
  for (const ConfigNode& value : node.array) {
    if (value.kind != ConfigNode::Kind::kScalar) {
      return ConfigError(file_, value.line, absl::StrCat("the values of ", name, " are to be numbers, words or sizes"));
    }
    // 2 and 2.0 are the same; and "64" and 64 give runs the same name.
    const bool again = !seen.insert(ValueText(value.scalar)).second;
    const bool number = value.scalar.is_number() && std::isfinite(value.scalar.get<double>());
    if (again || (number && !numbers.insert(value.scalar.get<double>()).second)) {
      return ConfigError(file_, value.line, absl::StrCat(name, " takes the same value twice: leave one out"));
    }
    swept.axis.values.push_back(value.scalar);
    swept.nodes.push_back(value);
  }
  // A group that is not there would be made by it.
  if (of_guests) {
    const std::vector<std::string> keys = absl::StrSplit(name, '.');
    const ConfigNode* const guests = root_.Find("guests");
    if (keys.size() != 3) {
      return ConfigError(file_, node.line,
                         absl::StrCat(name, " cannot be swept: write guests.NAME.KEY, such as guests.idle.count"));
    }
    if (guests == nullptr || guests->Find(keys[1]) == nullptr) {
      return ConfigError(file_, node.line, absl::StrCat(name, " cannot be swept: there is no [guests.", keys[1], "]"));
    }
  }
  swept_.push_back(std::move(swept));
  return absl::OkStatus();
}

absl::Status MatrixReader::Count(int repetitions, uint64_t& total) const {
  double runs = repetitions;  // may be more than a whole number can say
  for (const Swept& swept : swept_) runs *= static_cast<double>(swept.nodes.size());
  if (!swept_.empty() && runs > static_cast<double>(kMostRuns)) {
    return ConfigError(file_, swept_.front().line,
                       absl::StrFormat("the matrix has %.0f runs, repetitions included, and %u are the most: sweep "
                                       "less at a time",
                                       runs, kMostRuns));
  }
  total = 1;
  for (const Swept& swept : swept_) total *= swept.nodes.size();
  return absl::OkStatus();
}

std::string PointText(const Point& point) {
  return absl::StrJoin(point, ", ", [](std::string* out, const auto& value) {
    absl::StrAppend(out, value.first, " = ", value.second.dump(-1, ' ', false, Json::error_handler_t::replace));
  });
}

absl::Status ReadVariants(const std::string& file, const ConfigNode& root, std::vector<Swept>& swept, uint64_t variants,
                          const RunLimits& limits, Experiment& experiment) {
  for (uint64_t number = 0; number < variants; ++number) {
    ConfigNode varied = root;
    Point point;
    uint64_t rest = number, below = variants;
    for (const Swept& s : swept) {
      below /= s.nodes.size();
      const uint64_t value = rest / below;
      rest %= below;
      SetAt(s.path, s.nodes[value], varied);
      point.emplace_back(s.axis.name, s.axis.values[value]);
    }
    absl::StatusOr<Variant> variant = VariantReader(file, varied, limits).Read();
    if (!variant.ok()) {
      if (point.empty()) return variant.status();
      return absl::InvalidArgumentError(absl::StrCat(variant.status().message(), " (with ", PointText(point), ")"));
    }
    variant->point = std::move(point);
    experiment.variants.push_back(*std::move(variant));
  }
  return absl::OkStatus();
}

// "DIR/overcommit.toml" is "overcommit".
std::string NameOf(absl::string_view path) {
  absl::string_view name = path.substr(path.rfind('/') + 1);
  return std::string(name.substr(0, name.rfind('.')));
}

}  // namespace

absl::string_view Name(Contender contender) {
  switch (contender) {
    case Contender::kQuire:
      return "quire";
    case Contender::kKernel:
      return "kernel";
    case Contender::kKernelBest:
      return "kernel-best";
    case Contender::kQemu:
      return "qemu";
  }
  return "";
}

std::string ValueText(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<Experiment> ReadExperiment(const std::string& path, bool quick, const RunLimits& limits) {
  const absl::StatusOr<std::string> text = ReadWhole("FILE", path, kLongestFile);
  if (!text.ok()) {
    return absl::InvalidArgumentError(absl::StrReplaceAll(text.status().message(), {{"--FILE=", "the experiment "}}));
  }
  return ParseExperiment(path, *text, quick, limits);
}

absl::StatusOr<Experiment> ParseExperiment(const std::string& path, absl::string_view text, bool quick,
                                           const RunLimits& limits) {
  absl::StatusOr<ConfigNode> root = ParseToml(path, text);
  if (!root.ok()) return root.status();
  root->line = 1;
  if (const ConfigNode* const changes = root->Find("quick"); quick && changes != nullptr) {
    const ConfigNode copy = *changes;
    Override(copy, *root);
  }
  Experiment experiment{.file = path, .text = std::string(text), .name = NameOf(path), .quick = quick};
  ConfigReader reader(path, "the file", *root);
  int64_t repetitions = 5;
  reader.Read("name", experiment.name);
  reader.Read("asks", experiment.asks);
  reader.Read("about", experiment.about);
  reader.ReadWhole("repetitions", 1, kMostRepetitions, repetitions);
  for (const absl::string_view others : {"seed", "run", "guests", "phases"}) reader.Note(others);
  reader.Table("quick");
  const ConfigNode* const matrix = reader.Table("matrix");
  const ConfigNode* const charts = reader.Tables("charts");
  if (absl::Status status = reader.Finish(); !status.ok()) return status;
  if (absl::Status status = CheckName(path, 1, "an experiment", experiment.name); !status.ok()) return status;
  experiment.repetitions = static_cast<int>(repetitions);

  MatrixReader swept(path, *root);
  uint64_t variants = 1;
  if (matrix != nullptr) {
    if (absl::Status status = swept.Read(*matrix); !status.ok()) return status;
    if (absl::Status status = swept.Count(experiment.repetitions, variants); !status.ok()) return status;
  }
  for (const Swept& s : swept.swept()) experiment.axes.push_back(s.axis);
  if (absl::Status status = ReadVariants(path, *root, swept.swept(), variants, limits, experiment); !status.ok()) {
    return status;
  }
  absl::StatusOr<Json> read = ReadCharts(path, charts, experiment.axes);
  if (!read.ok()) return read.status();
  experiment.charts = *std::move(read);
  return experiment;
}

}  // namespace quire
