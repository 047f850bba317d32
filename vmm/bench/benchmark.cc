#include "vmm/bench/benchmark.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/mapping.h"
#include "base/thread.h"
#include "vmm/baseline/host_memory.h"
#include "vmm/bench/clone.h"
#include "vmm/bench/merge_scan.h"
#include "vmm/bench/sweep.h"
#include "vmm/interrupt.h"
#include "vmm/progress.h"
#include "vmm/run.h"

namespace quire {
namespace {

constexpr std::pair<Side, absl::string_view> kSides[] = {{Side::kQuire, "quire"},
                                                         {Side::kKernel, "kernel"},
                                                         {Side::kKernelBest, "kernel-best"},
                                                         {Side::kKernelSmall, "kernel-small"}};

class NoProgress final : public ProgressSink {
 public:
  void Update(const Snapshot&) override {}
  void ShowLine(absl::string_view) override {}
  bool interrupted() const override { return CaughtInterrupt() != 0; }
};

void UseSmallPages(const GuestSet::Guest& guest) {
  const Mapping& memory = guest.machine->anonymous();
  madvise(memory.data(), memory.size().in_bytes(), MADV_NOHUGEPAGE);
}

// For a guest that is waiting, and none of whose memory is there.
absl::StatusOr<Measurement> SweepAndVerify(SweepGuest& guest, const RunOptions& options) {
  const ByteCount plenty = ByteCount::Bytes(options.memory.in_bytes() * 5 / 4);
  if (absl::Status status = TouchHostMemory(plenty); !status.ok()) return status;
  absl::StatusOr<Measurement> measured = guest.Sweep();
  if (!measured.ok()) return measured;
  const absl::Status verified = guest.Verify(*measured);
  return verified.ok() ? measured : verified;
}

absl::StatusOr<Measurement> MeasureTouch(const RunOptions& options, Side side) {
  absl::StatusOr<SweepGuest> guest = SweepGuest::Create(options, /*fill=*/false);
  if (!guest.ok()) return guest.status();
  if (side == Side::kKernelSmall) UseSmallPages(guest->guest());
  if (absl::Status status = guest->Start(); !status.ok()) return status;
  return SweepAndVerify(*guest, options);
}

absl::StatusOr<Measurement> MeasureRefaultDense(const RunOptions& options, Side) {
  absl::StatusOr<SweepGuest> guest = SweepGuest::Create(options, /*fill=*/true);
  if (!guest.ok()) return guest.status();
  if (absl::Status status = guest->Start(); !status.ok()) return status;
  if (absl::Status status = guest->PushOut(); !status.ok()) return status;
  return SweepAndVerify(*guest, options);
}

void AgeAll(GuestMemory& memory) {
  const uint64_t blocks = memory.size().in_blocks_ceil();
  for (uint64_t b = 0; b < blocks; b += GuestMemory::kMostAgedTogether) {
    memory.AgeBlocks(BlockNumber(b), std::min<uint64_t>(GuestMemory::kMostAgedTogether, blocks - b));
  }
}

// Takes a guest's memory from it while its vCPU spins: out of the guest, its content kept, where it is managed; for
// good, its content lost, where it is the kernel's.
absl::StatusOr<Measurement> MeasureReclaim(const RunOptions& options, Side side) {
  absl::StatusOr<SweepGuest> guest = SweepGuest::Create(options, /*fill=*/true);
  if (!guest.ok()) return guest.status();
  if (absl::Status status = guest->Start(); !status.ok()) return status;
  Measurement measured{.content_ratio = guest->content_ratio()};
  const absl::Duration cpu_before = ProcessCpuTime();
  const MonotonicTime begin = RealClock().Now();
  if (side == Side::kQuire) {
    GuestMemory& memory = *guest->guest().memory;
    // Where the MMU has access bits, the first look finds all of them set.
    for (int looks = 0; looks < 2 && memory.counts()[PageState::kResident] > PageCount(); ++looks) AgeAll(memory);
  } else {
    const Mapping& memory = guest->guest().machine->anonymous();
    if (madvise(memory.data(), memory.size().in_bytes(), MADV_DONTNEED) != 0) {
      return absl::ErrnoToStatus(errno, "give the guest's memory up (MADV_DONTNEED)");
    }
  }
  const absl::Duration took = RealClock().Now() - begin;
  measured.cpu_seconds = absl::ToDoubleSeconds(ProcessCpuTime() - cpu_before);
  measured.value = options.memory.in_mib() / 1024 / absl::ToDoubleSeconds(took);
  if (side != Side::kQuire) return measured;
  if (guest->guest().memory->counts()[PageState::kResident] > PageCount()) {
    return absl::InternalError("a page was left in a guest that touches none");
  }
  if (absl::StatusOr<Measurement> swept = guest->Sweep(); !swept.ok()) return swept;
  const absl::Status verified = guest->Verify(measured);
  if (!verified.ok()) return verified;
  return measured;
}

absl::StatusOr<Measurement> MeasureOperations(RunOptions options, absl::string_view workload) {
  options.workload = std::string(workload);
  NoProgress progress;
  const absl::StatusOr<Report> report = RunGuests(options, progress);
  if (!report.ok()) return report.status();
  const GuestReport& guest = report->guests[0];
  if (!guest.exit.ok()) return guest.exit;
  const CpuSecondsReport& cpu = report->cpu_seconds;
  Measurement measured{.value = guest.operations_per_second,
                       .cpu_seconds = cpu.vcpus + cpu.fault + cpu.reclaim,
                       .content_ratio = report->content_ratio,
                       .mismatched_pages = guest.mismatched_pages};
  if (options.engine == Engine::kQuire && guest.operations > 0) {
    const double operations = static_cast<double>(guest.operations);
    measured.details["pages_in_per_operation"] = static_cast<double>(report->swap.pages_in) / operations;
    measured.details["faults_per_operation"] = static_cast<double>(report->faults.total) / operations;
    measured.details["fault_p50_us"] = report->faults.p50_us;
  }
  return measured;
}

absl::StatusOr<Measurement> MeasureRefaultRandom(const RunOptions& options, Side) {
  absl::StatusOr<Measurement> measured = MeasureOperations(options, "random");
  if (measured.ok()) measured->value = 1e6 / measured->value;
  return measured;
}
absl::StatusOr<Measurement> MeasureOvercommit(const RunOptions& options, Side) {
  return MeasureOperations(options, "zipf:theta=0.99");
}
absl::StatusOr<Measurement> MeasureOvercommitScattered(const RunOptions& options, Side) {
  return MeasureOperations(options, "zipf:theta=0.99,scatter=1");
}
absl::StatusOr<Measurement> MeasureIdleCost(const RunOptions& options, Side) {
  return MeasureOperations(options, "zipf:theta=0.99");
}

absl::StatusOr<Measurement> MeasureClone(const RunOptions& options, Side side) {
  if (side != Side::kQuire) return MeasureForks(options, side);
  NoProgress progress;
  return MeasureClones(options, progress);
}

std::vector<Benchmark> MakeTable() {
  using enum Side;
  return {
      {.name = "touch",
       .what = "first touch of recycled memory, in order",
       .unit = "us a page",
       .sides = {kQuire, kKernel, kKernelSmall},
       .measure = MeasureTouch},
      {.name = "refault-dense",
       .what = "return, in order, to memory that was compressed",
       .unit = "us a page",
       .swaps = true,
       .sides = {kQuire, kKernel, kKernelBest},
       .measure = MeasureRefaultDense},
      {.name = "refault-random",
       .what = "uniformly random touches of memory of which half fits",
       .unit = "us a touch",
       .swaps = true,
       .limited = true,
       .sides = {kQuire, kKernel, kKernelBest, kKernelSmall},
       .measure = MeasureRefaultRandom},
      {.name = "overcommit",
       .what = "Zipf-distributed touches, popular pages side by side, in half of the memory",
       .unit = "operations/s",
       .higher_is_better = true,
       .swaps = true,
       .limited = true,
       .sides = {kQuire, kKernel, kKernelBest, kKernelSmall},
       .measure = MeasureOvercommit},
      {.name = "overcommit-scattered",
       .what = "Zipf-distributed touches, popular pages anywhere, in half of the memory",
       .unit = "operations/s",
       .higher_is_better = true,
       .swaps = true,
       .limited = true,
       .sides = {kQuire, kKernel, kKernelBest, kKernelSmall},
       .measure = MeasureOvercommitScattered},
      {.name = "reclaim",
       .what = "taking memory from a guest whose vCPU runs but has left it, against MADV_DONTNEED",
       .unit = "GiB/s",
       .higher_is_better = true,
       .sides = {kQuire, kKernel},
       .measure = MeasureReclaim},
      {.name = "idle-cost",
       .what = "a guest with memory enough and as many vCPUs as the host has",
       .unit = "operations/s",
       .higher_is_better = true,
       .paired = true,
       .sides = {kQuire, kKernel},
       .measure = MeasureIdleCost},
      {.name = "clone",
       .what = "one more guest of a frozen one, ready to run, against fork() of a process with as much memory",
       .unit = "ms",
       .sides = {kQuire, kKernel, kKernelSmall},
       .measure = MeasureClone},
      {.name = "merge-scan",
       .what = "finding 95 % of the pages that guests have in common, from cold, against ksmd",
       .unit = "CPU seconds",
       .merges = true,
       .sides = {kQuire, kKernel, kKernelBest},
       .measure = MeasureMergeScan},
  };
}

}  // namespace

absl::string_view Name(Side side) {
  for (const auto& [s, name] : kSides) {
    if (s == side) return name;
  }
  return "";
}

std::optional<Side> ParseSide(absl::string_view name) {
  for (const auto& [side, n] : kSides) {
    if (n == name) return side;
  }
  return std::nullopt;
}

absl::Span<const Benchmark> Benchmarks() {
  static const std::vector<Benchmark>& table = *new std::vector<Benchmark>(MakeTable());
  return table;
}

const Benchmark* FindBenchmark(absl::string_view name) {
  for (const Benchmark& benchmark : Benchmarks()) {
    if (benchmark.name == name) return &benchmark;
  }
  return nullptr;
}

double Advantage(const Benchmark& benchmark, double ours, double theirs) {
  return benchmark.higher_is_better ? ours / theirs : theirs / ours;
}

ByteCount PoolFor(const Benchmark& benchmark, const RunOptions& options, std::optional<ByteCount> wanted) {
  if (!benchmark.limited) return ByteCount::Bytes(2 * options.memory.in_bytes()) + MinimumPool(options);
  const ByteCount half = ByteCount::Bytes(options.memory.in_bytes() / 2);
  return wanted.value_or(PageCount::Ceil(half).bytes());
}

absl::StatusOr<Measurement> Measure(const Benchmark& benchmark, RunOptions options, Side side) {
  if (!benchmark.merges) options.guests = 1;
  options.engine = side == Side::kQuire ? Engine::kQuire : Engine::kKernel;
  // --huge is about Quire's side: the kernel's has 2 MiB pages as that side says.
  if (side != Side::kQuire) options.huge = Huge::kAlways;
  return benchmark.measure(options, side);
}

}  // namespace quire
