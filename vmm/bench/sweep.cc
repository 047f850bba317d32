#include "vmm/bench/sweep.h"

#include <sys/mman.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/thread.h"
#include "vmm/interrupt.h"
#include "workloads/workload_spec.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21  // Linux 5.4
#endif

namespace quire {
namespace {

constexpr absl::Duration kLookAtFilling = absl::Milliseconds(5);
// Short against what is timed; the thread that looks costs the guest a few microseconds each time, on both sides.
constexpr absl::Duration kLookAtSweep = absl::Microseconds(200);
constexpr int kTriesToPushOut = 20;
// Of a guest's memory may stay: pages that somebody looks at just then.
constexpr double kMayStay = 0.02;

PageCount ResidentPages(const Mapping& mapping) {
  std::vector<unsigned char> in_core(mapping.size().in_bytes() / kPageSize);
  if (mincore(mapping.data(), mapping.size().in_bytes(), in_core.data()) != 0) return PageCount(in_core.size());
  PageCount resident;
  for (const unsigned char page : in_core) resident += PageCount(page & 1);
  return resident;
}

}  // namespace

absl::StatusOr<SweepGuest> SweepGuest::Create(const RunOptions& options, bool fill) {
  WorkloadSpec spec;
  spec.kind = WorkloadKind::kSweep;
  spec.fill = fill ? 1 : 0;
  spec.writes = fill ? 0 : 1;
  absl::StatusOr<std::unique_ptr<GuestSet>> set = GuestSet::Create(options, spec);
  if (!set.ok()) return set.status();
  return SweepGuest(*std::move(set), PageCount::Ceil(options.memory));
}

SweepGuest::~SweepGuest() {
  if (set_ == nullptr) return;
  set_->RequestStop();
  set_->Join();
}

template <class Done>
absl::Status SweepGuest::Await(absl::Duration interval, Done done) {
  while (!done()) {
    if (const absl::Status exit = guest().machine->exit(); !exit.ok()) return exit;
    if (CaughtInterrupt() != 0) return absl::CancelledError("interrupted");
    absl::SleepFor(interval);
  }
  return absl::OkStatus();
}

absl::Status SweepGuest::Start() {
  set_->Start();
  return Await(kLookAtFilling, [this] { return guest().machine->ReadProgress().phase >= 1; });
}

absl::StatusOr<Measurement> SweepGuest::Sweep() {
  const absl::Duration cpu_before = ProcessCpuTime();
  const MonotonicTime begin = RealClock().Now();
  guest().machine->StartSweep();
  const auto swept = [this] { return guest().machine->ReadProgress().operations >= size_.in_pages(); };
  if (absl::Status status = Await(kLookAtSweep, swept); !status.ok()) return status;
  const absl::Duration took = RealClock().Now() - begin;
  return Measurement{.value = absl::ToDoubleMicroseconds(took) / static_cast<double>(size_.in_pages()),
                     .cpu_seconds = absl::ToDoubleSeconds(ProcessCpuTime() - cpu_before),
                     .content_ratio = content_ratio()};
}

absl::Status SweepGuest::Verify(Measurement& measurement) {
  if (absl::Status status = Await(kLookAtFilling, [this] { return set_->AllFinished(); }); !status.ok()) return status;
  measurement.mismatched_pages += guest().machine->ReadProgress().mismatched_pages;
  return absl::OkStatus();
}

absl::Status SweepGuest::PushOut() { return manager() != nullptr ? PushOutByManager() : PushOutByKernel(); }

absl::Status SweepGuest::PushOutByManager() {
  EvictionScratch scratch;
  // Pages that do not compress stay in memory, out of the guest.
  const auto resident = [this] { return guest().memory->counts()[PageState::kResident]; };
  for (int tries = 0; tries < kTriesToPushOut; ++tries) {
    const PageCount freed = manager()->reclaimer().Reclaim(size_, scratch);
    if (freed == PageCount() && resident() == PageCount()) return absl::OkStatus();
  }
  return absl::UnavailableError("the guest's memory cannot be pushed out: something keeps touching it");
}

absl::Status SweepGuest::PushOutByKernel() {
  const Mapping& memory = guest().machine->anonymous();
  const auto enough = static_cast<double>(size_.in_pages()) * kMayStay;
  for (int tries = 0; tries < kTriesToPushOut; ++tries) {
    if (madvise(memory.data(), memory.size().in_bytes(), MADV_PAGEOUT) != 0) {
      return absl::ErrnoToStatus(errno, "push the guest's memory out to swap (MADV_PAGEOUT)");
    }
    if (static_cast<double>(ResidentPages(memory).in_pages()) <= enough) return absl::OkStatus();
  }
  return absl::UnavailableError(absl::StrCat("the host kernel keeps ", ResidentPages(memory).in_pages(), " of ",
                                             size_.in_pages(), " pages in memory: is there enough swap space?"));
}

}  // namespace quire
