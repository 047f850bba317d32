#include "vmm/experiment_command.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/flags/declare.h"
#include "absl/flags/flag.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "vmm/experiment/experiment.h"
#include "vmm/experiment/measured_run.h"
#include "vmm/experiment/plan.h"
#include "vmm/experiment/results_file.h"
#include "vmm/experiment/runner.h"
#include "vmm/experiment/slurm.h"
#include "vmm/files.h"
#include "vmm/flags.h"
#include "vmm/guest_set.h"
#include "vmm/host_facts.h"
#include "vmm/results/page.h"
#include "vmm/text.h"
#include "workloads/spec.h"

ABSL_DECLARE_FLAG(std::optional<std::string>, out);
ABSL_FLAG(bool, quick, false, "what the file's section [quick] says counts: a smaller experiment, for a first look");
ABSL_FLAG(bool, plan, false, "only say what would be run, and for how long");
ABSL_FLAG(bool, slurm, false,
          "run it on a cluster, as a Slurm job array: each task runs what is to be compared on one node");
ABSL_FLAG(std::optional<std::string>, slurm_options, std::nullopt,
          "options for sbatch, with spaces between them (default: --exclusive)");
ABSL_FLAG(std::optional<int>, task, std::nullopt, "run only this task of the job array, into DIR/tasks");

namespace quire {
namespace {

const std::vector<FlagGroup>& ExperimentFlags() {
  static const auto* groups = new std::vector<FlagGroup>{
      {"What is run",
       {{"out", "DIR", "write the path of a directory"},
        {"quick", "", "write --quick", "true"},
        {"plan", "", "write --plan", "true"}}},
      {"Where it is run",
       {{"slurm", "", "write --slurm", "true"},
        {"slurm_options", "OPTIONS", "write options of sbatch, such as '--exclusive --partition=test'"},
        {"task", "N", "write the number of a task"}}}};
  return *groups;
}

// What a file's settings are held against.
RunLimits Limits(const Host& host) {
  return {.host_memory = UsableMemory(host),
          .guest_address_space = GuestAddressSpace(),
          .minimum_pool = ByteCount(),
          .check_workload = [](absl::string_view spec) { return ParseWorkload(spec).status(); }};
}

std::string Minutes(double seconds) {
  const auto minutes = static_cast<uint64_t>(seconds / 60 + 0.5);
  return minutes == 0 ? "less than a minute" : Plural(minutes, "minute");
}

double SecondsOfAll(const Experiment& experiment) {
  double seconds = 0;
  for (const Variant& variant : experiment.variants) seconds += SecondsOf(variant) * experiment.repetitions;
  return seconds;
}

void Announce(const Experiment& experiment, std::ostream& out) {
  if (!experiment.asks.empty()) out << experiment.asks << "\n";
  out << absl::StrCat(experiment.name, experiment.quick ? " (quick)" : "", ": ",
                      Plural(experiment.variants.size(), "setting"), ", ",
                      Plural(static_cast<uint64_t>(experiment.repetitions), "time"),
                      " each: ", Plural(experiment.runs(), "run"), ", ", Minutes(SecondsOfAll(experiment)),
                      " of guests at work.\n")
      << std::flush;
}

void PrintPlan(const Experiment& experiment, std::ostream& out) {
  size_t number = 0;
  for (const RunGroup& group : PlanRuns(experiment)) {
    for (const PlannedRun& run : group) out << absl::StrCat(++number, "  ", run.name(), "\n");
  }
  out << std::flush;
}

absl::StatusOr<std::string> FileOf(absl::Span<const absl::string_view>& args) {
  if (args.empty() || absl::StartsWith(args[0], "-")) {
    return absl::InvalidArgumentError(
        "no experiment is named: write quire experiment FILE --out=DIR; experiments/ has four to begin with");
  }
  std::string file(args[0]);
  args.remove_prefix(1);
  return file;
}

// What `quire report` would write.
absl::Status WritePage(const std::string& directory, Console& console) {
  const absl::StatusOr<results::ExperimentReport> report = results::ReportOf(directory);
  if (!report.ok()) return report.status();
  const std::string path = absl::StrCat(directory, "/report.html");
  if (absl::Status written = WriteWhole(path, report->page); !written.ok()) return written;
  console.out << "\n" << report->verdict << "\nThe page: " << path << "\n" << std::flush;
  return absl::OkStatus();
}

}  // namespace

std::string ExperimentHelp() {
  return absl::StrCat(
      "Usage: quire experiment FILE --out=DIR [flags]\n\n"
      "Runs guests under all the settings that a file asks for, several times each, with the engines in turn, and\n"
      "writes what comes out to a directory: a line of JSON for each run, and a page to look at. Interrupted, it goes\n"
      "on where it was when it is started again. docs/experiments.md describes the file.\n\n",
      FlagsHelp(ExperimentFlags()),
      "Examples\n"
      "  quire experiment experiments/overcommit.toml --out=overcommit --quick\n"
      "      throughput from 1x to 4x overcommit, both engines, in minutes\n"
      "  quire experiment experiments/density.toml --out=density\n"
      "      how many idle guests fit, with merging and without\n"
      "  quire experiment experiments/qemu.toml --out=qemu\n"
      "      the same Linux guests in Quire and in QEMU, through libvirt\n"
      "  quire experiment my.toml --out=DIR --plan\n"
      "      what would be run\n"
      "  quire experiment my.toml --out=DIR --slurm --slurm-options='--exclusive --partition=kvm'\n"
      "      the same on a cluster; DIR has to be on a file system that all nodes share\n\n");
}

absl::Status ExperimentCommand(absl::Span<const absl::string_view> args, Console& console) {
  const absl::StatusOr<std::string> file = FileOf(args);
  if (!file.ok()) return file.status();
  if (absl::Status parsed = ParseFlags("quire experiment", args, ExperimentFlags()); !parsed.ok()) return parsed;
  const absl::StatusOr<Experiment> experiment = ReadExperiment(*file, absl::GetFlag(FLAGS_quick), Limits(console.host));
  if (!experiment.ok()) return experiment.status();
  if (absl::GetFlag(FLAGS_plan)) {
    Announce(*experiment, console.out);
    PrintPlan(*experiment, console.out);
    return absl::OkStatus();
  }
  const std::optional<std::string> out = absl::GetFlag(FLAGS_out);
  if (!out.has_value()) {
    return absl::InvalidArgumentError("the results need a place: write --out=DIR, a directory that is made if need be");
  }
  if (const std::optional<int> task = absl::GetFlag(FLAGS_task)) {
    return RunSlurmTask(*experiment, *out, *task, console.host, console.out, console.out_terminal);
  }
  Announce(*experiment, console.out);
  const absl::Status run =
      absl::GetFlag(FLAGS_slurm)
          ? RunOnSlurm(*experiment, {.out = *out, .options = absl::GetFlag(FLAGS_slurm_options)}, console.out,
                       console.out_terminal)
          : RunExperiment(*experiment, {.out = *out}, console.host, console.out, console.out_terminal);
  if (!run.ok()) return run;
  if (absl::Status status = WritePage(*out, console); !status.ok()) return status;
  const size_t failed = CountFailed(*out);
  if (failed == 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(Plural(failed, "run"), " of ", experiment->runs(),
                                          " failed; the page says why, and ", *out, "/runs.log has what was said"));
}

}  // namespace quire
