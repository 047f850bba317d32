#include "vmm/experiment/runner.h"

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "vmm/accel.h"
#include "vmm/baseline/kernel_baseline.h"
#include "vmm/doctor.h"
#include "vmm/experiment/measured_run.h"
#include "vmm/experiment/plan.h"
#include "vmm/experiment/progress_bar.h"
#include "vmm/experiment/results_file.h"
#include "vmm/interrupt.h"
#include "vmm/libvirt/qemu/ask_libvirt.h"
#include "vmm/libvirt/qemu/qemu_accel.h"
#include "vmm/text.h"
#include "vmm/version.h"

namespace quire {
namespace {

using Json = nlohmann::json;

Json PointJson(const Point& point) {
  Json json = Json::object();
  for (const auto& [name, value] : point) json[name] = value;
  return json;
}

class Runner {
 public:
  Runner(const Experiment& experiment, const RunnerOptions& options, const Host& host, std::ostream& out,
         const std::function<Terminal()>& terminal)
      : experiment_(experiment), options_(options), host_(host), out_(out), terminal_(terminal) {}

  absl::Status Run();

 private:
  // What is left to be run.
  std::vector<PlannedRun> Left(const ResultsFile& results) const;
  // Takes out of `runs` what this host cannot run.
  absl::Status PrepareHost(std::vector<PlannedRun>& runs);
  absl::Status DecideHowToRun(std::vector<PlannedRun>& runs);
  // How this host can run `run`. Error: it cannot.
  absl::StatusOr<AccelDecision> Decide(const PlannedRun& run) const;
  absl::Status PrepareQemu(std::vector<PlannedRun>& runs);
  absl::StatusOr<QemuAccel> ProbeQemu(const Variant& variant) const;
  // Half of an experiment is better than none; started again where it can be run, it runs the rest. Error: `why`, and
  // nothing is left.
  absl::Status GoOnWithout(absl::string_view what, const absl::Status& why, const std::vector<PlannedRun>& left);
  std::string AccelOf(const PlannedRun& run) const;
  absl::Status PrepareKernel(std::vector<PlannedRun>& runs);
  absl::Status RunOne(const PlannedRun& run, ProgressBar& progress);

  const Experiment& experiment_;
  const RunnerOptions& options_;
  const Host& host_;
  std::ostream& out_;
  const std::function<Terminal()>& terminal_;
  std::unique_ptr<ResultsFile> results_;
  std::unique_ptr<KernelBaseline> baseline_;
  Accel accel_ = Accel::kSoft;
  std::map<const Variant*, QemuAccel> qemu_accels_;
  Json host_facts_;
};

absl::Status Runner::Run() {
  absl::StatusOr<std::unique_ptr<ResultsFile>> results = ResultsFile::Open(options_.out, experiment_);
  if (!results.ok()) return results.status();
  results_ = *std::move(results);
  std::vector<PlannedRun> runs = Left(*results_);
  if (results_->size() > 0) {
    out_ << Plural(results_->size(), "run") << " of " << experiment_.runs() << " found in " << options_.out << ".\n";
  }
  if (runs.empty()) return absl::OkStatus();
  CatchInterrupts();
  if (absl::Status status = PrepareHost(runs); !status.ok()) return status;
  ProgressBar progress(out_, terminal_);
  for (const PlannedRun& run : runs) progress.Expect(SecondsOf(*run.variant));
  for (const PlannedRun& run : runs) {
    if (absl::Status status = RunOne(run, progress); !status.ok()) {
      progress.Clear();
      return status;
    }
  }
  progress.Clear();
  return absl::OkStatus();
}

std::vector<PlannedRun> Runner::Left(const ResultsFile& results) const {
  std::vector<PlannedRun> left;
  const std::vector<RunGroup> groups = PlanRuns(experiment_);
  for (size_t i = 0; i < groups.size(); ++i) {
    if (options_.task.has_value() && *options_.task != TaskOf(i)) continue;
    for (const PlannedRun& run : groups[i]) {
      if (!results.Has(run.name())) left.push_back(run);
    }
  }
  return left;
}

absl::Status Runner::PrepareHost(std::vector<PlannedRun>& runs) {
  host_facts_ = Json::parse(ToJson(Diagnose(host_)), nullptr, /*allow_exceptions=*/false);
  if (absl::Status status = PrepareQemu(runs); !status.ok()) return status;
  if (absl::Status status = DecideHowToRun(runs); !status.ok()) return status;
  return PrepareKernel(runs);
}

absl::Status Runner::GoOnWithout(absl::string_view what, const absl::Status& why, const std::vector<PlannedRun>& left) {
  if (!absl::IsFailedPrecondition(why) || left.empty()) return why;
  out_ << "Without " << what << ": " << Sentence(why.message()) << "\n" << std::flush;
  return absl::OkStatus();
}

absl::Status Runner::PrepareQemu(std::vector<PlannedRun>& runs) {
  absl::Status lacking;
  for (const PlannedRun& run : runs) {
    if (!run.variant->on_qemu() || qemu_accels_.contains(run.variant)) continue;
    const absl::StatusOr<QemuAccel> accel = ProbeQemu(*run.variant);
    if (accel.ok()) qemu_accels_[run.variant] = *accel;
    lacking.Update(accel.status());
  }
  if (lacking.ok()) return absl::OkStatus();
  std::erase_if(
      runs, [this](const PlannedRun& run) { return run.variant->on_qemu() && !qemu_accels_.contains(run.variant); });
  return GoOnWithout("the engine qemu", lacking, runs);
}

absl::StatusOr<QemuAccel> Runner::ProbeQemu(const Variant& variant) const {
  const absl::StatusOr<std::string> capabilities = AskLibvirt(variant.uri);
  if (!capabilities.ok()) return capabilities.status();
  return DecideQemuAccel(variant.options.accel, host_, *capabilities);
}

absl::StatusOr<AccelDecision> Runner::Decide(const PlannedRun& run) const {
  const RunOptions& options = run.variant->options;
  const bool kernel = options.pc.has_value();
  absl::StatusOr<AccelDecision> decision =
      DecideAccel({.accel = options.accel, .own_program = kernel ? "kernel" : ""}, host_);
  const std::optional<Obstacle> obstacle = kernel && decision.ok() ? NestedPagingObstacle(host_) : std::nullopt;
  if (!obstacle.has_value()) return decision;
  return absl::FailedPreconditionError(
      absl::StrCat("kernel needs KVM with nested paging, but ", obstacle->found, ": ", obstacle->fix));
}

// What runs the same guests as QEMU is left out where only QEMU can.
absl::Status Runner::DecideHowToRun(std::vector<PlannedRun>& runs) {
  absl::Status lacking;
  std::erase_if(runs, [&](const PlannedRun& run) {
    if (run.variant->on_qemu()) return false;
    const absl::StatusOr<AccelDecision> decision = Decide(run);
    lacking.Update(decision.status());
    // All engines are to run the same guests.
    if (decision.ok() && run.variant->options.accel == Accel::kAuto) accel_ = decision->accel;
    return !decision.ok();
  });
  if (lacking.ok() || qemu_accels_.empty()) return lacking;
  return GoOnWithout("the runs whose guests KVM would have to run", lacking, runs);
}

absl::Status Runner::PrepareKernel(std::vector<PlannedRun>& runs) {
  KernelNeeds needs;
  ByteCount most;
  for (const PlannedRun& run : runs) {
    if (!run.variant->on_kernel()) continue;
    needs.swaps = needs.limited = true;
    needs.merges |= run.variant->options.merge == Merge::kOn;
    most = std::max(most, run.variant->options.all_memory());
  }
  if (!needs.swaps) return absl::OkStatus();
  absl::StatusOr<std::unique_ptr<KernelBaseline>> baseline = KernelBaseline::Create(needs, most);
  if (baseline.ok()) {
    baseline_ = *std::move(baseline);
    return absl::OkStatus();
  }
  std::erase_if(runs, [](const PlannedRun& run) { return run.variant->on_kernel(); });
  return GoOnWithout(
      qemu_accels_.empty() ? "the engines kernel and kernel-best" : "the engines kernel, kernel-best and qemu",
      absl::Status(baseline.status().code(),
                   absl::StrCat("the host kernel's side cannot be run: ", baseline.status().message())),
      runs);
}

std::string Runner::AccelOf(const PlannedRun& run) const {
  if (run.variant->on_qemu()) return std::string(qemu_accels_.at(run.variant).name());
  const Accel asked = run.variant->options.accel;
  return std::string(Name(asked == Accel::kAuto ? accel_ : asked));
}

absl::Status Runner::RunOne(const PlannedRun& run, ProgressBar& progress) {
  const std::string name = run.name();
  progress.Begin(name);
  const absl::Time started = absl::Now();
  const absl::StatusOr<RunOutcome> outcome =
      RunVariant(*run.variant, run.seed,
                 {.baseline = baseline_.get(),
                  .accel = accel_,
                  .qemu_accel = run.variant->on_qemu() ? qemu_accels_.at(run.variant) : QemuAccel{},
                  .log = results_->log(),
                  .while_running = [&](double seconds) { progress.Update(seconds); }});
  if (!outcome.ok()) return outcome.status();
  Json result = ResultOf(*run.variant, *outcome);
  result["form"] = kResultsForm;
  result["run"] = name;
  result["point"] = PointJson(run.variant->point);
  result["repetition"] = run.repetition;
  result["seed"] = run.seed;
  result["settings"] = run.variant->settings;
  result["settings"]["accel"] = AccelOf(run);
  if (run.variant->on_qemu()) result["settings"]["accel_because"] = qemu_accels_.at(run.variant).because;
  result["settings"]["pool_bytes"] = run.variant->options.pool.in_bytes();
  result["started"] = absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", started, absl::UTCTimeZone());
  result["version"] = kVersion;
  result["host"] = host_facts_;
  if (absl::Status status = results_->Append(result); !status.ok()) return status;
  progress.End(result["outcome"] == "ok" ? "" : absl::StrCat(name, ": ", outcome->reason));
  return absl::OkStatus();
}

}  // namespace

absl::Status RunExperiment(const Experiment& experiment, const RunnerOptions& options, const Host& host,
                           std::ostream& out, const std::function<Terminal()>& terminal) {
  return Runner(experiment, options, host, out, terminal).Run();
}

}  // namespace quire
