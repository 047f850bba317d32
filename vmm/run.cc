#include "vmm/run.h"

#include <algorithm>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "guest/frames/fragmentation.h"
#include "guest/huge/block_refusal.h"
#include "guest/memory_manager.h"
#include "guest/merge/merger.h"
#include "guest/swap/swap_area.h"
#include "guest/swap/swap_space.h"
#include "guest/swap/zone.h"
#include "vmm/console_listener.h"
#include "vmm/control/commands.h"
#include "vmm/control/http.h"
#include "vmm/control/server.h"
#include "vmm/control/socket_place.h"
#include "vmm/guest_set.h"
#include "vmm/machine/pc_devices.h"
#include "vmm/machine/pc_machine.h"
#include "vmm/memory_failure.h"
#include "vmm/phase_runner.h"
#include "vmm/virtio/balloon.h"
#include "workloads/operation_latency.h"
#include "workloads/spec.h"

namespace quire {
namespace {

// How long a guest that is to be cloned may take to come to its freeze point, if the run is not longer.
constexpr absl::Duration kFreezeGrace = absl::Minutes(5);
constexpr absl::Duration kFreezePoll = absl::Milliseconds(1);

// How long a guest may take to heed its stop flag. Long enough for a page to come back under the worst thrashing.
constexpr absl::Duration kStopGrace = absl::Seconds(20);

GuestSnapshot::State StateOf(bool started, const absl::Status& exit, bool finished, uint64_t phase) {
  using State = GuestSnapshot::State;
  if (!started) return State::kWaiting;
  if (!exit.ok()) return State::kStopped;
  if (finished) return State::kFinished;
  return phase > 0 ? State::kRunning : State::kFilling;
}

// What its driver has said last; the answer to this will be seen the next time.
GuestSnapshot::Told AskBalloon(Balloon& balloon) {
  balloon.RequestStatistics();
  const Balloon::Statistics said = balloon.statistics();
  return {.balloon = balloon.actual().bytes(),
          .total = said.total,
          .free = said.free,
          .swapped_in = said.swapped_in,
          .swapped_out = said.swapped_out};
}

LatencyReport LatencyReportOf(const LatencyHistogram& latency) {
  LatencyReport report{.p50_us = absl::ToDoubleMicroseconds(latency.Percentile(50)),
                       .p99_us = absl::ToDoubleMicroseconds(latency.Percentile(99))};
  for (const LatencyHistogram::Range& range : latency.Ranges()) {
    report.bounds_us.push_back(absl::ToDoubleMicroseconds(range.end));
    report.counts.push_back(range.count);
  }
  return report;
}

class GuestRun {
 public:
  GuestRun(const RunOptions& options, GuestSet& set) : options_(options), set_(set), started_(set.guests().size()) {}

  // Starts the guests; returns when all of them are there, clones too. Error: they could not be cloned, and all has
  // ended.
  absl::Status Start(ProgressSink& progress);
  // To the end.
  void Execute(ProgressSink& progress);
  // Ends what was started.
  void Finish(ProgressSink& progress);
  // As things are; once Start has returned, from any thread.
  Report MakeReport() ABSL_LOCKS_EXCLUDED(lock_);
  std::vector<GuestReport> ReportGuests() ABSL_LOCKS_EXCLUDED(lock_);
  // Once the guests have ended: what was done in each phase, too.
  Report FinalReport() ABSL_LOCKS_EXCLUDED(lock_);

 private:
  using Guest = GuestSet::Guest;
  // When a guest's workload proper was first seen to run, and what had been done by then.
  struct Started {
    std::optional<MonotonicTime> running_since;
    uint64_t operations_before = 0;
  };

  // Runs the guest that is to be cloned until it is, and starts the clones, unless it is told to stop before.
  absl::Status RunToFreezePoint(ProgressSink& progress);
  void NoteClones(const GuestSet::CloneTimes& times);
  void Look(ProgressSink& progress);
  Snapshot Sample() ABSL_LOCKS_EXCLUDED(lock_);
  GuestSnapshot SampleGuest(const Guest& guest, Started& started);
  // Has the drivers of balloons tell of their memory, where the user wants that now and then.
  void AskForStatistics();
  // The others, if there are any left, can use what a guest had that ended before its time.
  void FreeMemoryOfFinished();
  // Whether guests are to go on.
  bool GoOn(MonotonicTime end, const ProgressSink& progress);
  void SampleForSchedule(Snapshot& snapshot);
  static PoolReport ReadPool(MemoryManager& manager);
  static uint64_t BlocksMapped(const Guest& guest);
  void ReportSchedule(Report& report);

  GuestReport ReportGuest(size_t number, const Started& started) const;
  PcReport ReportPc(const Guest& guest) const;
  void ReportManager(Report& report);
  void ReportMerging(Report& report);
  void ReportCompaction(Report& report);
  void ReportTiers(SwapReport& swap);
  void ReportTranslations(Report& report);

  const RunOptions& options_;
  GuestSet& set_;
  absl::Mutex lock_;                                           // a leaf but for what the guests say of themselves
  std::vector<Started> started_ ABSL_GUARDED_BY(lock_);        // in the order of the guests
  std::optional<absl::Duration> took_ ABSL_GUARDED_BY(lock_);  // when all is over
  // These stay as they are once Start has returned.
  ClonesReport clones_;
  std::optional<PhaseRunner> phases_;
  std::vector<PhaseReport> phase_reports_;
  MonotonicTime start_;
  MonotonicTime next_statistics_;
  uint64_t start_ticks_ = 0;
  double ticks_per_us_ = 0;
};

absl::Status GuestRun::Start(ProgressSink& progress) {
  start_ = RealClock().Now();
  start_ticks_ = ReadTicks();
  set_.Start();
  if (options_.schedule.has_value()) phases_.emplace(*options_.schedule, set_, start_);
  if (options_.clones == 0) return absl::OkStatus();
  const absl::Status cloned = RunToFreezePoint(progress);
  if (!cloned.ok()) Finish(progress);
  return cloned;
}

void GuestRun::Execute(ProgressSink& progress) {
  const MonotonicTime end = phases_ ? MonotonicTime::FromNanoseconds(INT64_MAX) : RealClock().Now() + options_.duration;
  MonotonicTime look = RealClock().Now() + kSampleInterval;
  while (GoOn(end, progress)) {
    // A guest that is too much may have all killed at once; that it ran is to be seen.
    if (phases_ && phases_->TakeNews()) look = RealClock().Now();
    const MonotonicTime next = std::min({look, end, phases_ ? phases_->next() : look});
    absl::SleepFor(next - RealClock().Now());
    if (RealClock().Now() < std::min(look, end)) continue;
    look = RealClock().Now() + kSampleInterval;
    Look(progress);
    AskForStatistics();
    FreeMemoryOfFinished();
  }
  if (phases_) phase_reports_ = phases_->Finish(RealClock().Now());
  Finish(progress);
}

bool GuestRun::GoOn(MonotonicTime end, const ProgressSink& progress) {
  if (progress.interrupted() || set_.UserWantsToQuit()) return false;
  if (phases_) return phases_->Advance(RealClock().Now());
  return !set_.AllFinished() && RealClock().Now() < end;
}

void GuestRun::Look(ProgressSink& progress) {
  set_.console().Flush(progress);
  progress.Update(Sample());
}

void GuestRun::AskForStatistics() {
  if (!options_.pc || options_.pc->statistics_period == absl::ZeroDuration()) return;
  const MonotonicTime now = RealClock().Now();
  if (now < next_statistics_) return;
  next_statistics_ = now + options_.pc->statistics_period;
  for (const Guest& guest : set_.guests()) {
    if (!guest.machine->finished()) guest.pc->devices().balloon().RequestStatistics();
  }
}

absl::Status GuestRun::RunToFreezePoint(ProgressSink& progress) {
  const MonotonicTime end = start_ + std::max(options_.duration, kFreezeGrace);
  MonotonicTime look = start_;
  while (!set_.AllFinished() && RealClock().Now() < end && !progress.interrupted()) {
    absl::SleepFor(kFreezePoll);
    if (RealClock().Now() < look) continue;
    look = RealClock().Now() + kSampleInterval;
    Look(progress);
  }
  if (progress.interrupted()) return absl::OkStatus();
  if (!set_.AtFreezePoint()) {
    const absl::Status& why = set_.guests().front().machine->exit();
    if (!why.ok()) return why;
    return absl::FailedPreconditionError(
        "the guest was not cloned, because not all of its vCPUs came to a freeze point: a program has to write to "
        "QUIRE_FREEZE_PORT on each of them (docs/guest_abi.md)");
  }
  const absl::StatusOr<GuestSet::CloneTimes> times = set_.StartClones();
  if (!times.ok()) return times.status();
  NoteClones(*times);
  absl::MutexLock lock(&lock_);
  started_.resize(set_.guests().size());
  return absl::OkStatus();
}

void GuestRun::NoteClones(const GuestSet::CloneTimes& times) {
  std::vector<absl::Duration> sorted = times.clones;
  std::sort(sorted.begin(), sorted.end());
  clones_.count = options_.clones;
  clones_.freeze_seconds = absl::ToDoubleSeconds(times.freeze);
  clones_.freeze_gib_per_second = options_.memory.in_mib() / 1024 / clones_.freeze_seconds;
  clones_.clone_seconds_median = absl::ToDoubleSeconds(sorted[sorted.size() / 2]);
  clones_.clone_seconds_max = absl::ToDoubleSeconds(sorted.back());
  clones_.pool_bytes_each = times.pool_each;
  clones_.metadata_bytes_each = times.metadata_each;
}

void GuestRun::Finish(ProgressSink& progress) {
  set_.RequestStop();
  const MonotonicTime give_up = RealClock().Now() + kStopGrace;
  while (!set_.AllFinished() && RealClock().Now() < give_up) {
    absl::SleepFor(absl::Milliseconds(2));
    Sample();
  }
  if (!set_.AllFinished() && set_.manager() != nullptr) set_.manager()->CancelSwap();
  for (const Guest& guest : set_.guests()) {
    if (guest.machine->finished()) continue;
    guest.machine->Kill(absl::DeadlineExceededError(
        "it was told to stop (boot_info->stop) and did not within 20 seconds, so it was ended"));
  }
  set_.Join();
  const absl::Duration took = RealClock().Now() - start_;
  ticks_per_us_ = static_cast<double>(ReadTicks() - start_ticks_) / absl::ToDoubleMicroseconds(took);
  {
    absl::MutexLock lock(&lock_);
    took_ = took;
  }
  progress.Update(Sample());
  set_.console().Flush(progress, /*end=*/true);
}

void GuestRun::FreeMemoryOfFinished() {
  std::vector<const Guest*> finished;
  size_t at_work = set_.guests().size();
  for (const Guest& guest : set_.guests()) {
    if (!guest.machine->finished() || !guest.machine->started()) continue;
    --at_work;
    const bool has_memory = guest.memory != nullptr && !guest.memory->stopped() && !guest.memory->frozen();
    if (has_memory) finished.push_back(&guest);
  }
  // The last ones keep what they had for the report, also those that end while this is done.
  if (at_work == 0) return;
  for (const Guest* const guest : finished) {
    guest->machine->Quiesce();
    guest->memory->Stop(absl::CancelledError("the guest has ended"));
    guest->memory->Discard(GfnRange(Gfn(0), guest->memory->size()));
  }
}

Snapshot GuestRun::Sample() {
  Snapshot snapshot{.elapsed = RealClock().Now() - start_};
  if (options_.duration < RunOptions::kNoTimeLimit) snapshot.duration = options_.duration;
  {
    absl::MutexLock lock(&lock_);
    for (size_t i = 0; i < started_.size(); ++i) {
      snapshot.guests.push_back(SampleGuest(set_.guests()[i], started_[i]));
    }
  }
  if (set_.manager() != nullptr) {
    snapshot.pool_used = set_.manager()->pool().budget().charged().bytes();
    snapshot.pool_limit = set_.manager()->pool().budget().limit().bytes();
  }
  if (phases_) SampleForSchedule(snapshot);
  return snapshot;
}

void GuestRun::SampleForSchedule(Snapshot& snapshot) {
  snapshot.phase = phases_->name();
  for (const Guest& guest : set_.guests()) snapshot.huge += ByteCount::Bytes(BlocksMapped(guest) * kBlockSize);
  if (set_.manager() == nullptr) return;
  const PoolReport pool = ReadPool(*set_.manager());
  snapshot.pool = {.resident = pool.resident_bytes,
                   .out = pool.out_bytes,
                   .shared = pool.shared_bytes,
                   .compressed = pool.compressed_bytes,
                   .wired = pool.wired_bytes,
                   .free = pool.free_bytes};
}

GuestSnapshot GuestRun::SampleGuest(const Guest& guest, Started& started) {
  const Machine::Progress p = guest.ReadProgress();
  const bool finished = guest.machine->finished();
  if (p.phase > 0 && !finished && !started.running_since.has_value()) {
    started.running_since = RealClock().Now();
    started.operations_before = p.operations;
  }
  GuestSnapshot s{
      .name = guest.name, .operations = p.operations, .mismatched_pages = p.mismatched_pages, .memory = guest.size};
  s.state = StateOf(guest.machine->started(), guest.machine->exit(), finished, p.phase);
  if (guest.pc != nullptr && phases_) s.told = AskBalloon(guest.pc->devices().balloon());
  if (guest.memory == nullptr) return s;
  const PageStateCounts& pages = guest.memory->counts();
  s.resident = (pages[PageState::kResident] + pages[PageState::kInTransit]).bytes();
  s.out = pages[PageState::kOut].bytes();
  s.shared = pages[PageState::kShared].bytes();
  s.compressed = pages[PageState::kSwapped].bytes();
  s.faults = guest.memory->faults();
  return s;
}

// --- The report.

Report GuestRun::MakeReport() {
  Report report;
  report.engine = options_.engine;
  report.accel = options_.accel;
  report.content_ratio = set_.content_ratio();
  {
    absl::MutexLock lock(&lock_);
    report.elapsed_seconds = absl::ToDoubleSeconds(took_.value_or(RealClock().Now() - start_));
  }
  report.clones = clones_;
  report.guests = ReportGuests();
  report.policies = {.merge = options_.merge, .huge = options_.huge};
  if (set_.manager() != nullptr) report.policies = PoliciesOf(*set_.manager());
  for (const Guest& guest : set_.guests())
    report.cpu_seconds.vcpus += absl::ToDoubleSeconds(guest.machine->vcpu_time());
  ReportTranslations(report);
  if (set_.manager() != nullptr) ReportManager(report);
  return report;
}

Report GuestRun::FinalReport() {
  Report report = MakeReport();
  if (phases_) ReportSchedule(report);
  return report;
}

std::vector<GuestReport> GuestRun::ReportGuests() {
  std::vector<Started> started;
  {
    absl::MutexLock lock(&lock_);
    started = started_;
  }
  std::vector<GuestReport> guests;
  for (size_t i = 0; i < started.size(); ++i) guests.push_back(ReportGuest(i, started[i]));
  return guests;
}

PcReport GuestRun::ReportPc(const Guest& guest) const {
  PcReport report{.ended = guest.machine->finished() ? "time" : "not yet",
                  .console = guest.console->values(),
                  .failed_devices = guest.pc->devices().Failures()};
  if (guest.pc->end() == PcMachine::End::kPowerOff) report.ended = "power off";
  if (guest.pc->end() == PcMachine::End::kReset) report.ended = "reset";
  if (guest.pc->end() == PcMachine::End::kExit) {
    report.ended = "exit";
    report.exit_status = guest.pc->exit_status();
  }
  const Balloon& balloon = guest.pc->devices().balloon();
  report.balloon_bytes = balloon.actual().bytes();
  report.balloon_target_bytes = balloon.target().bytes();
  report.reported_bytes = PageCount(balloon.counters().reported.value()).bytes();
  report.machine_checks = guest.pc->machine_checks();
  return report;
}

GuestReport GuestRun::ReportGuest(size_t number, const Started& started) const {
  const Guest& guest = set_.guests()[number];
  const bool finished = guest.machine->finished();
  const Machine::Progress p = guest.ReadProgress();
  GuestReport r{.id = static_cast<int>(number),
                .name = guest.name,
                .memory_bytes = guest.size,
                .vcpus = guest.machine->vcpus(),
                .exit = guest.machine->exit(),
                .operations = p.operations,
                .verified_pages = p.verified_pages,
                .mismatched_pages = p.mismatched_pages};
  if (guest.memory != nullptr) {
    r.peak_resident_bytes = guest.memory->peak_held().bytes();
    r.peak_swapped_bytes = guest.memory->peak_swapped().bytes();
    r.pool_limit_bytes = guest.memory->limits().frames.bytes();
    r.swap_limit_bytes = guest.memory->limits().swapped.bytes();
    const PageStateCounts& pages = guest.memory->counts();
    r.resident_bytes = (pages[PageState::kResident] + pages[PageState::kInTransit]).bytes();
    r.out_bytes = pages[PageState::kOut].bytes();
    r.shared_bytes = pages[PageState::kShared].bytes();
    r.compressed_bytes = pages[PageState::kSwapped].bytes();
    r.inherited_bytes = pages[PageState::kInherited].bytes();
    r.wired_bytes = guest.memory->wired().bytes();
    r.faults = guest.memory->faults();
    r.reclaimed_pages = guest.memory->pages_out();
  }
  r.state = Name(StateOf(guest.machine->started(), r.exit, finished, p.phase));
  if (guest.pc != nullptr) r.pc = ReportPc(guest);
  if (r.exit.ok() && !p.first_mismatch.empty()) r.exit = absl::DataLossError(p.first_mismatch);
  // A guest that was never seen to run is measured from its start, filling included.
  const MonotonicTime since = started.running_since.value_or(start_);
  if (const MonotonicTime end = finished ? guest.machine->ended() : RealClock().Now(); end > since) {
    r.operations_per_second =
        static_cast<double>(p.operations - started.operations_before) / absl::ToDoubleSeconds(end - since);
  }
  return r;
}

PoolReport GuestRun::ReadPool(MemoryManager& manager) {
  Pool& pool = manager.pool();
  const PageCount wired = manager.wiring().limit.charged();
  const PageCount resident = manager.PagesIn(PageState::kResident) + manager.PagesIn(PageState::kInTransit);
  const PageCount there_is = pool.budget().limit() + pool.arena().counts().free;
  return {.limit_bytes = pool.budget().limit().bytes(),
          .peak_bytes = pool.budget().peak().bytes(),
          // Counters of a run that goes on are from slightly different moments.
          .resident_bytes = (std::max(resident, wired) - wired).bytes(),
          .out_bytes = manager.PagesIn(PageState::kOut).bytes(),
          .shared_bytes = manager.shared().frames().bytes(),
          .compressed_bytes = manager.store().statistics().held.bytes(),
          .wired_bytes = (pool.wired() + wired).bytes(),
          .poisoned_bytes = pool.poisoned().bytes(),
          .free_bytes = (there_is - std::min(there_is, pool.budget().charged())).bytes(),
          .metadata_bytes = manager.metadata(),
          .wirings_refused = manager.wiring().refused_limit.value()};
}

uint64_t GuestRun::BlocksMapped(const Guest& guest) {
  if (guest.vm != nullptr) return guest.vm->KvmStatistic("pages_2m");
  const bool mapped = guest.soft != nullptr && guest.soft->ept() != nullptr;
  return mapped ? guest.soft->ept()->statistics().blocks : 0;
}

void GuestRun::ReportSchedule(Report& report) {
  report.phases = phase_reports_;
  LatencyHistogram latency;
  for (uint32_t i = 0; i < OperationLatency::kBuckets; ++i) {
    const double us = static_cast<double>(OperationLatency::EndOf(i)) / ticks_per_us_;
    if (const uint64_t times = phases_->latency().counts[i]; times > 0) latency.Record(absl::Microseconds(us), times);
  }
  report.latency = LatencyReportOf(latency);
}

void GuestRun::ReportManager(Report& report) {
  const Wiring& wiring = set_.manager()->wiring();
  const SwapSpace::Statistics stored = set_.manager()->store().statistics();
  report.huge_pages = set_.manager()->pool().file().backing() == PoolFile::Backing::kTmpfs;
  const ByteCount of_mmus = report.pool.metadata_bytes;
  report.pool = ReadPool(*set_.manager());
  report.pool.metadata_bytes += of_mmus;

  const FaultCounters& faults = set_.manager()->faults();
  report.faults.total = faults.total.value();
  report.faults.zero_fill = faults.zero_fill.value();
  report.faults.second_chance = faults.second_chance.value();
  report.faults.swap_in = faults.swap_in.value();
  report.faults.inherited = faults.inherited.value();
  report.faults.direct_reclaims = set_.manager()->reclaimer().counters().direct.value();
  report.faults.limit_reclaims = set_.manager()->reclaimer().counters().at_limit.value();
  report.faults.already_resident = faults.already_resident.value();
  report.faults.huge = report.huge.whole_faults = faults.whole.value();
  report.huge.promotions = faults.promotions.value();
  report.huge.prefetched_blocks = faults.prefetched.value();
  ReportCompaction(report);
  ReportMerging(report);

  const SwapCounters& swap = set_.manager()->swap();
  report.swap.pages_out = swap.pages_out.value();
  report.swap.pages_in = swap.pages_in.value();
  report.swap.unchanged_pages = swap.unchanged.value();
  report.swap.kept_pages = stored.kept.in_pages();
  report.swap.stored_pages = stored.stored.in_pages();
  report.swap.same_filled_pages = stored.same_filled.in_pages();
  report.swap.deduplicated_pages = stored.deduplicated;
  report.swap.refused_limit = swap.refused_limit.value();
  report.swap.refused_wired = wiring.refused_reclaim.value();
  ReportTiers(report.swap);
  report.cpu_seconds.swap = absl::ToDoubleSeconds(set_.manager()->writer_cpu_time());
  for (const ZoneStatistics& zone : set_.manager()->store().zones()) {
    report.zones.push_back({.name = zone.name,
                            .size = zone.size,
                            .limit = zone.limit,
                            .used = zone.used,
                            .free = zone.free,
                            .requests = zone.requests,
                            .failures = zone.failures,
                            .frames = zone.frames.in_pages()});
  }
  report.cpu_seconds.fault += absl::ToDoubleSeconds(set_.manager()->prefetcher().cpu_time());
  report.cpu_seconds.reclaim =
      absl::ToDoubleSeconds(set_.manager()->reclaimer().cpu_time() + set_.manager()->compactor().cpu_time() +
                            set_.manager()->zones_cpu_time() + set_.manager()->recompressor_cpu_time());
}

void GuestRun::ReportTiers(SwapReport& swap) {
  const SwapSpace& store = set_.manager()->store();
  const SwapSpace::Statistics stored = store.statistics();
  swap.tiers.push_back({.name = "ram",
                        .pages = (stored.in_pool + stored.same_filled).in_pages(),
                        .bytes = stored.stored_bytes,
                        .errors = stored.errors,
                        .recompressed = stored.recompressed,
                        .recompression_saved_bytes = stored.recompression_saved});
  for (const std::unique_ptr<SwapArea>& area : store.areas()) {
    const SwapAreaCounters& counters = area->counters();
    swap.tiers.push_back({.name = std::string(area->store().name()),
                          .pages = counters.pages.value(),
                          .bytes = ByteCount::Bytes(counters.bytes.value()),
                          .errors = counters.errors.value(),
                          .store = area->store().description(),
                          .limit_bytes = area->store().size(),
                          .written_bytes = ByteCount::Bytes(counters.bytes_written.value()),
                          .read_bytes = ByteCount::Bytes(counters.bytes_read.value())});
  }
  for (const SwapTierReport& tier : swap.tiers) swap.stored_bytes += tier.bytes;
}

void GuestRun::ReportMerging(Report& report) {
  MemoryManager& manager = *set_.manager();
  const SharedFrames& shared = manager.shared();
  const PageCount frames = shared.frames();
  const PageCount pages = shared.sharers();
  report.faults.unshare = manager.faults().unshare.value();
  const MergeCounters& counters = manager.merger().counters();
  report.merge.scanned_pages = counters.scanned.value();
  report.merge.skipped_pages = counters.skipped.value();
  report.merge.passes = counters.passes.value();
  report.merge.merged_pages = counters.merged.value();
  report.merge.zero_pages = counters.zero.value();
  report.merge.shared_frames = frames.in_pages();
  report.merge.saved_bytes = (std::max(pages, frames) - frames).bytes() + manager.store().statistics().shared.bytes();
  report.merge.broken_pages = manager.faults().unshare.value();
  for (size_t why = 1; why < kMergeRefusals; ++why) {
    report.merge.refused[std::string(Name(static_cast<MergeRefusal>(why)))] = counters.refused[why].value();
  }
  report.cpu_seconds.merge = absl::ToDoubleSeconds(manager.merger().cpu_time());
}

void GuestRun::ReportCompaction(Report& report) {
  const FreeRuns runs = set_.manager()->pool().arena().free_runs();
  report.huge.unusable_free_index = UnusableFreeIndex(runs, kBlockOrder);
  report.huge.fragmentation_index = FragmentationIndex(runs, kBlockOrder);
  for (size_t why = 0; why < kBlockRefusals; ++why) {
    const auto refusal = static_cast<BlockRefusal>(why);
    report.huge.refused[std::string(Name(refusal))] = set_.manager()->faults().whole_refused.value(refusal);
  }
  const Compaction* const compaction = set_.manager()->pool().compaction();
  if (compaction == nullptr) return;
  const CompactionCounters& counters = compaction->counters();
  report.huge.compactions = counters.blocks.value() + counters.ranges.value();
  report.huge.migrated_pages = counters.migrated_pages.value();
  report.huge.refused["compaction: a page stayed busy"] = counters.refused_busy.value();
  report.huge.refused["compaction: a page cannot be moved"] = counters.refused_cannot.value();
  report.huge.refused["compaction: a page is wired"] =
      counters.refused_wired.value() + set_.manager()->wiring().refused_move.value();
  report.huge.refused["compaction: no room to move to"] = counters.refused_no_room.value();
  report.huge.refused["compaction: the memory was needed"] = counters.refused_wanted.value();
  report.huge.refused["compaction: put off after failures"] =
      set_.manager()->compactor().counters().refused_deferred.value();
  report.huge.refused["compaction: free memory was not scattered"] =
      set_.manager()->compactor().counters().refused_memory.value();
}

void GuestRun::ReportTranslations(Report& report) {
  LatencyHistogram latency;
  for (const Guest& guest : set_.guests()) {
    report.huge.blocks_mapped += BlocksMapped(guest);
    if (guest.memory == nullptr) continue;
    report.notifier.invalidations += guest.memory->notifiers().invalidations();
    report.notifier.pages += guest.memory->notifiers().pages();
    if (guest.memory->frozen()) continue;  // its MMU has gone
    if (guest.vm != nullptr) {
      KvmWindow& window = *guest.vm->window();
      report.notifier.views_left += window.counters().views_left.value();
      report.faults.slow += window.counters().slow.value();
      report.notifier.retries += window.counters().retries.value();
      report.notifier.islands_made += window.counters().islands_made.value();
      report.notifier.islands_unmade += window.counters().islands_unmade.value();
      report.notifier.homes_refused += window.counters().homes_refused.value();
      report.merge.refused["the process had no mapping left to show it"] += window.counters().islands_refused.value();
      report.huge.refused["the host kernel would not map it whole"] += window.counters().blocks_refused.value();
      report.cpu_seconds.fault += absl::ToDoubleSeconds(window.cpu_time());
      latency.Add(window.counters().latency);
    } else {
      const EptStatistics ept = guest.soft->ept()->statistics();
      report.notifier.retries += ept.retries;
      report.pool.metadata_bytes += ept.metadata;
      latency.Add(guest.soft->ept()->fault_latency());
    }
  }
  report.faults.p50_us = absl::ToDoubleMicroseconds(latency.Percentile(50));
  report.faults.p99_us = absl::ToDoubleMicroseconds(latency.Percentile(99));
  report.fault_latency = LatencyReportOf(latency);
}

// A run without one is as good; only what the user has named must be had. Null: there is none.
absl::StatusOr<std::unique_ptr<ControlServer>> StartControl(const RunOptions& options, GuestSet& set, GuestRun& run,
                                                            ProgressSink& progress) {
  if (!options.control.has_value()) return nullptr;
  const absl::StatusOr<std::string> path =
      options.control->empty() ? PlaceForSocket() : absl::StatusOr<std::string>(*options.control);
  absl::StatusOr<std::unique_ptr<ControlServer>> server = nullptr;
  if (path.ok()) {
    const ControlledRun controlled{.options = options,
                                   .set = set,
                                   .report = [&run] { return run.MakeReport(); },
                                   .guests = [&run] { return run.ReportGuests(); }};
    server = ControlServer::Start(
        *path, [controlled](const HttpRequest& request) { return AnswerRequest(controlled, request); });
  } else {
    server = path.status();
  }
  if (server.ok() || !options.control->empty()) return server;
  progress.ShowLine(absl::StrCat("this run has no control socket: ", server.status().message()));
  return nullptr;
}

// Null where the host kernel has the memory.
std::unique_ptr<MemoryFailureWatch> WatchFailures(GuestSet& set) {
  if (set.manager() == nullptr) return nullptr;
  std::vector<MemoryFailureWatch::Window> windows;
  for (const GuestSet::Guest& guest : set.guests()) {
    if (guest.vm != nullptr && guest.vm->window() != nullptr)
      windows.push_back({.begin = guest.vm->window()->base(), .guest = guest.memory});
  }
  const auto tell = [](const absl::StatusOr<MemoryManager::Poisoned>& poisoned) {
    if (!poisoned.ok()) return void(std::cerr << "quire: memory has failed: " << poisoned.status().message() << "\n");
    std::cerr << absl::StrCat("quire: frame ", poisoned->frame.value(), " of the pool has failed; ",
                              poisoned->lost.in_pages(), " pages of guests are lost\n");
  };
  return std::make_unique<MemoryFailureWatch>(*set.manager(), windows, tell);
}

}  // namespace

absl::StatusOr<Report> RunGuests(const RunOptions& options, ProgressSink& progress) {
  WorkloadSpec workload;
  if (options.has_workload()) {
    absl::StatusOr<WorkloadSpec> parsed = ParseWorkload(options.workload);
    if (!parsed.ok()) return parsed.status();
    workload = *parsed;
  }
  absl::StatusOr<std::unique_ptr<GuestSet>> set = GuestSet::Create(options, workload);
  if (!set.ok()) return set.status();
  GuestRun run(options, **set);
  if (absl::Status status = run.Start(progress); !status.ok()) return status;
  // For all guests, of which there are no more from now on.
  const std::unique_ptr<MemoryFailureWatch> failures = WatchFailures(**set);
  const absl::StatusOr<std::unique_ptr<ControlServer>> control = StartControl(options, **set, run, progress);
  if (!control.ok()) {
    run.Finish(progress);
    return control.status();
  }
  run.Execute(progress);
  return run.FinalReport();
}

}  // namespace quire
