#include "vmm/bench/bench.h"

#include <algorithm>
#include <map>
#include <memory>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "vmm/baseline/host_memory.h"
#include "vmm/baseline/kernel_baseline.h"
#include "vmm/bench/child.h"
#include "vmm/interrupt.h"
#include "vmm/text.h"

namespace quire {
namespace {

constexpr ByteCount kSmallestLimit = ByteCount::MiB(16);

// How near the kernel's memory is brought to the pool, and in how many runs.
constexpr double kNearEnough = 0.03;
constexpr int kCalibrations = 6;
constexpr double kLeastRatio = 1.25;  // of content, for the step of the calibration

// The kernel now and then kills a guest in a cgroup in which it runs at other times. So it is given several tries
// before its limit is raised, up to what the pool is.
constexpr int kTriesAtLimit = 3;
constexpr double kMoreAfterKills = 1.3;

KernelTuning TuningOf(Side side) {
  switch (side) {
    case Side::kKernelBest:
      return KernelTuning::kAtItsBest;
    case Side::kKernelSmall:
      return KernelTuning::kSmallPages;
    default:
      return KernelTuning::kAsItComes;
  }
}

class Bench {
 public:
  Bench(const BenchOptions& options, std::ostream& out)
      : options_(options), benchmark_(*options.benchmark), out_(out) {}

  absl::StatusOr<BenchReport> Run();

 private:
  absl::Status PrepareKernel();
  // Makes the host as a measurement of `side` is to find it.
  absl::Status PrepareHost(Side side, ChildOptions& child);
  absl::Status CalibrateSides(BenchReport& report);
  // From now on `side` is not measured any more.
  void GiveUp(Side side, const absl::Status& why, BenchReport& report);
  absl::Status Calibrate(Side side);
  absl::Status MeasureAll(BenchReport& report);
  // One measurement; another, a few times, if the kernel has killed it for want of memory.
  absl::StatusOr<Measurement> MeasureOnce(Side side);
  absl::StatusOr<Measurement> TryOnce(Side side);
  // The same, with more memory if need be, but no more than the pool. FailedPrecondition: it takes more.
  // DeadlineExceeded: it did not reach its goal in time.
  absl::StatusOr<Measurement> MeasureInLittle(Side side);
  // Whether the host kernel killed its guest for want of memory, where memory is limited.
  bool WasKilled(Side side, const absl::Status& status) const {
    return absl::IsResourceExhausted(status) && side != Side::kQuire && benchmark_.limited;
  }
  // Whether the benchmark goes on without that side, which is the kernel's.
  static bool CannotDo(Side side, const absl::Status& status) {
    return side != Side::kQuire && (absl::IsFailedPrecondition(status) || absl::IsDeadlineExceeded(status));
  }
  // What the cgroup and zram should hold together, in bytes.
  double WantedUsage() const { return static_cast<double>((options_.guest.pool + kForTheProcess).in_bytes()); }
  bool Unavailable(Side side) const {
    return side != Side::kQuire && (kernel_ == nullptr || unavailable_.contains(side));
  }

  const BenchOptions& options_;
  const Benchmark& benchmark_;
  std::ostream& out_;
  std::unique_ptr<KernelBaseline> kernel_;
  std::map<Side, ByteCount> limits_;  // of the cgroup
  std::map<Side, ByteCount> floors_;  // with less the kernel killed the guest
  std::map<Side, int> kills_;         // measurements that the kernel killed
  std::set<Side> unavailable_;
  ByteCount most_used_;  // by the latest run of the kernel's side
};

absl::StatusOr<BenchReport> Bench::Run() {
  BenchReport report{.benchmark = &benchmark_};
  if (absl::Status status = PrepareKernel(); !status.ok()) {
    if (!absl::IsFailedPrecondition(status)) return status;
    report.kernel_unavailable = std::string(status.message());
    kernel_ = nullptr;
    out_ << "The host kernel's side cannot be measured: " << Sentence(status.message()) << "\n";
  }
  if (absl::Status status = CalibrateSides(report); !status.ok()) return status;
  for (const Side side : benchmark_.sides) {
    if (!Unavailable(side)) report.sides.push_back({.side = side});
  }
  if (absl::Status status = MeasureAll(report); !status.ok()) return status;
  return report;
}

absl::Status Bench::PrepareKernel() {
  const KernelNeeds needs = {.swaps = benchmark_.swaps, .limited = benchmark_.limited, .merges = benchmark_.merges};
  absl::StatusOr<std::unique_ptr<KernelBaseline>> kernel = KernelBaseline::Create(needs, options_.guest.memory);
  if (!kernel.ok()) return kernel.status();
  kernel_ = *std::move(kernel);
  return absl::OkStatus();
}

absl::Status Bench::CalibrateSides(BenchReport& report) {
  if (!benchmark_.limited || kernel_ == nullptr) return absl::OkStatus();
  for (const Side side : benchmark_.sides) {
    if (side == Side::kQuire) continue;
    const absl::Status calibrated = Calibrate(side);
    if (calibrated.ok()) continue;
    if (!absl::IsFailedPrecondition(calibrated)) return calibrated;
    GiveUp(side, calibrated, report);
  }
  return absl::OkStatus();
}

void Bench::GiveUp(Side side, const absl::Status& why, BenchReport& report) {
  out_ << Name(side) << ": " << Sentence(why.message()) << "\n" << std::flush;
  unavailable_.insert(side);
  if (side == Side::kKernel) report.kernel_unavailable = std::string(why.message());
}

// Finds the limit of the cgroup with which it and zram together hold what the pool is. A byte more in the cgroup is one
// less to be compressed.
absl::Status Bench::Calibrate(Side side) {
  const double wanted = WantedUsage();
  double limit = wanted / 2;
  for (int run = 1; run <= kCalibrations; ++run) {
    limits_[side] = ByteCount::Bytes(static_cast<uint64_t>(limit) / kPageSize * kPageSize);
    const absl::StatusOr<Measurement> measured = MeasureInLittle(side);
    if (!measured.ok()) return measured.status();
    limit = static_cast<double>(limits_[side].in_bytes());
    const double used = static_cast<double>(most_used_.in_bytes());
    out_ << absl::StreamFormat("calibrating %s: %.0f MiB in the cgroup make %.0f MiB with zram, of %.0f\n", Name(side),
                               limit / (1 << 20), used / (1 << 20), wanted / (1 << 20))
         << std::flush;
    if (std::abs(used - wanted) <= kNearEnough * wanted) return absl::OkStatus();
    const double ratio = std::max(measured->content_ratio, kLeastRatio);
    const double floor = static_cast<double>(std::max(floors_[side], kSmallestLimit).in_bytes());
    const double next = std::max(limit + (wanted - used) / (1 - 1 / ratio), floor);
    // It cannot do with less: the report says how much it has.
    if (next == limit) return absl::OkStatus();
    limit = next;
  }
  return absl::OkStatus();
}

absl::StatusOr<Measurement> Bench::MeasureInLittle(Side side) {
  const double most = WantedUsage();
  for (;;) {
    absl::StatusOr<Measurement> measured = MeasureOnce(side);
    if (!WasKilled(side, measured.status())) return measured;
    const double limit = static_cast<double>(limits_[side].in_bytes());
    if (limit >= most) {
      return absl::FailedPreconditionError(absl::StrFormat(
          "the host kernel kills the guest for want of memory even in a memory cgroup of %.0f MiB, as much as the pool "
          "is, with nothing in zram; with --accel=soft it may do better",
          limits_[side].in_mib()));
    }
    const double more = std::min(limit * kMoreAfterKills, most);
    out_ << absl::StreamFormat("%s: killed %d times for want of memory in a cgroup of %.0f MiB; trying %.0f\n",
                               Name(side), kTriesAtLimit, limit / (1 << 20), more / (1 << 20))
         << std::flush;
    limits_[side] = floors_[side] = ByteCount::Bytes(static_cast<uint64_t>(more) / kPageSize * kPageSize);
  }
}

absl::StatusOr<Measurement> Bench::MeasureOnce(Side side) {
  for (int tries = 1;; ++tries) {
    absl::StatusOr<Measurement> measured = TryOnce(side);
    const bool killed = WasKilled(side, measured.status());
    if (killed) ++kills_[side];
    if (!killed || tries == kTriesAtLimit) return measured;
  }
}

absl::Status Bench::PrepareHost(Side side, ChildOptions& child) {
  if (kernel_ == nullptr) return absl::OkStatus();
  if (side == Side::kQuire) return kernel_->Rest();
  if (absl::Status status = kernel_->Prepare(TuningOf(side), benchmark_.merges); !status.ok()) return status;
  if (!benchmark_.limited) return absl::OkStatus();
  if (absl::Status status = kernel_->SetLimit(limits_[side]); !status.ok()) return status;
  most_used_ = ByteCount();
  child.cgroup_procs = kernel_->procs();
  child.while_running = [this] { most_used_ = std::max(most_used_, kernel_->Usage()); };
  return absl::OkStatus();
}

absl::StatusOr<Measurement> Bench::TryOnce(Side side) {
  if (absl::Status status = TouchHostMemory(ByteCount::Bytes(2 * options_.guest.memory.in_bytes())); !status.ok()) {
    return status;
  }
  ChildOptions child{.arguments = ArgumentsFor(options_, side)};
  if (absl::Status status = PrepareHost(side, child); !status.ok()) return status;
  const absl::StatusOr<std::string> output = RunThisProgram(child);
  if (!output.ok()) return output.status();
  absl::StatusOr<Measurement> measured = MeasurementFromJson(*output);
  if (measured.ok() && !measured->missed.empty()) return absl::DeadlineExceededError(measured->missed);
  if (measured.ok() && benchmark_.limited) {
    const ByteCount used = side == Side::kQuire ? options_.guest.pool : most_used_;
    measured->details["memory_mib"] = used.in_mib();
    if (side != Side::kQuire) measured->details["killed_for_want_of_memory"] = kills_[side];
  }
  return measured;
}

absl::Status Bench::MeasureAll(BenchReport& report) {
  for (int run = 1; run <= options_.runs; ++run) {
    // Each side comes first in its turn.
    for (size_t i = 0; i < report.sides.size(); ++i) {
      SideResult& result = report.sides[(i + static_cast<size_t>(run)) % report.sides.size()];
      if (unavailable_.contains(result.side)) continue;
      absl::StatusOr<Measurement> measured = MeasureInLittle(result.side);
      if (CannotDo(result.side, measured.status())) {
        GiveUp(result.side, measured.status(), report);
        continue;
      }
      if (!measured.ok()) return measured.status();
      result.runs.push_back(*std::move(measured));
    }
    out_ << RunLine(report, run, options_.runs) << std::flush;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BenchReport> RunBenchmark(const BenchOptions& options, std::ostream& out) {
  CatchInterrupts();
  return Bench(options, out).Run();
}

}  // namespace quire
