#include "vmm/bench/bench_options.h"

#include <algorithm>

#include "absl/flags/declare.h"
#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "vmm/text.h"

ABSL_FLAG(int, runs, 5, "how often each side is measured");
ABSL_FLAG(std::optional<std::string>, side, std::nullopt,
          "measure one side once and print a line of JSON: quire, kernel, kernel-best or kernel-small; the host's "
          "settings stay as they are");

ABSL_DECLARE_FLAG(std::optional<quire::ByteCount>, pool);

namespace quire {
namespace {

constexpr int kMostRuns = 1000;

std::vector<std::string> Names() {
  std::vector<std::string> names;
  for (const Benchmark& benchmark : Benchmarks()) names.emplace_back(benchmark.name);
  return names;
}

absl::Status NoSuchBenchmark(absl::string_view name) {
  const std::string nearest = Nearest(name, Names());
  return absl::InvalidArgumentError(absl::StrCat(
      "\"", name, "\" is not a benchmark: ",
      nearest.empty() ? "`quire bench --help` lists them" : absl::StrCat("did you mean `quire bench ", nearest, "`?")));
}

}  // namespace

std::vector<FlagGroup> BenchFlags() {
  return {
      {"What is measured",
       {{"runs", "N", "write a whole number such as 5"},
        {"seconds", "N", "write a number of seconds such as 10"},
        {"side", "SIDE", "write quire, kernel, kernel-best or kernel-small"}}},
      {"The guest; merge-scan has several, which share what is given here",
       {{"memory", "SIZE", "write a size such as 256M, 1.5G or 268435456"},
        {"pool", "SIZE", "write a size such as 128M, 1.5G or 134217728"},
        {"vcpus", "N", "write a whole number such as 1"},
        {"accel", "WHAT", "write auto, kvm or soft"},
        {"huge", "WHEN", "write always, advise or never"},
        {"content", "FILE", "write the path of a file"},
        {"seed", "N", "write a whole number such as 1"}}},
      {"Only for merge-scan", {{"guests", "N", "write a whole number such as 4"}}},
      {"What comes out", {{"json", "FILE", "write the path of a file, or - for standard output"}}},
  };
}

std::vector<FlagGroup> BenchFlags(const Benchmark& benchmark) {
  std::vector<FlagGroup> groups = BenchFlags();
  if (!benchmark.merges) {
    groups.erase(std::remove_if(groups.begin(), groups.end(),
                                [](const FlagGroup& group) { return group.flags[0].name == "guests"; }),
                 groups.end());
  }
  return groups;
}

absl::StatusOr<BenchOptions> BenchOptionsFromFlags(absl::string_view name) {
  BenchOptions options{.benchmark = FindBenchmark(name), .runs = absl::GetFlag(FLAGS_runs)};
  if (options.benchmark == nullptr) return NoSuchBenchmark(name);
  if (options.runs < 1 || options.runs > kMostRuns) {
    return absl::InvalidArgumentError(
        absl::StrCat("--runs=", options.runs, " is out of range: write a number from 1 to ", kMostRuns, ", such as 5"));
  }
  if (const std::optional<std::string> side = absl::GetFlag(FLAGS_side); side.has_value()) {
    options.side = ParseSide(*side);
    if (!options.side.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--side=", *side, " is not understood: write quire, kernel, kernel-best or kernel-small"));
    }
  }
  absl::StatusOr<RunOptions> guest = RunOptionsFromFlags();
  if (!guest.ok()) return guest.status();
  options.guest = *std::move(guest);
  if (!options.benchmark->merges) options.guest.guests = 1;
  options.guest.pool = PoolFor(*options.benchmark, options.guest, absl::GetFlag(FLAGS_pool));
  if (!options.guest.content.has_value()) options.guest.content = "/proc/self/exe";
  return options;
}

std::vector<std::string> ArgumentsFor(const BenchOptions& options, Side side) {
  const RunOptions& guest = options.guest;
  std::vector<std::string> arguments = {"bench",
                                        std::string(options.benchmark->name),
                                        absl::StrCat("--side=", Name(side)),
                                        absl::StrCat("--memory=", SizeToFlag(guest.memory)),
                                        absl::StrCat("--pool=", SizeToFlag(guest.pool)),
                                        absl::StrCat("--vcpus=", guest.vcpus),
                                        absl::StrCat("--accel=", Name(guest.accel)),
                                        absl::StrCat("--huge=", Name(guest.huge)),
                                        absl::StrCat("--content=", *guest.content),
                                        absl::StrCat("--seconds=", absl::ToDoubleSeconds(guest.duration)),
                                        absl::StrCat("--seed=", guest.seed)};
  if (options.benchmark->merges) arguments.push_back(absl::StrCat("--guests=", guest.guests));
  return arguments;
}

std::string BenchmarkHelp() {
  std::string text;
  for (const Benchmark& benchmark : Benchmarks()) {
    absl::StrAppendFormat(&text, "  %-21s %s\n", benchmark.name,
                          Wrap(absl::StrCat(benchmark.what, " (", benchmark.unit, ")"), 76, 24));
  }
  return text;
}

}  // namespace quire
