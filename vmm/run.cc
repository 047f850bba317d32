#include "vmm/run.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "guest/frames/budget.h"
#include "guest/frames/compaction.h"
#include "guest/frames/fragmentation.h"
#include "guest/memory_manager.h"
#include "vmm/files.h"
#include "vmm/guest_consoles.h"
#include "vmm/kvm/elf_loader.h"
#include "vmm/kvm/kvm_system.h"
#include "vmm/machine/kvm_machine.h"
#include "vmm/machine/soft_machine.h"
#include "vmm/machine/work.h"
#include "workloads/content_file.h"
#include "workloads/content_ratio.h"
#include "workloads/guest_abi.h"
#include "workloads/payload/embedded_payload.h"
#include "workloads/spec.h"

namespace quire {
namespace {

// How long a guest may take to heed its stop flag. Long enough for a page to come back under the worst thrashing.
constexpr absl::Duration kStopGrace = absl::Seconds(20);

constexpr ByteCount kLargestPayload = ByteCount::MiB(256);

// How many pages of content are sampled to measure its compression ratio.
constexpr PageCount kRatioSample(1024);

class GuestRun {
 public:
  explicit GuestRun(const RunOptions& options) : options_(options) {}
  ~GuestRun();

  absl::Status Prepare();
  void Execute(ProgressSink& progress);
  Report MakeReport();

 private:
  struct Guest {
    std::string name;
    GuestMemory* memory = nullptr;  // null: the host kernel has it
    std::unique_ptr<Machine> machine;
    KvmMachine* kvm = nullptr;    // the machine, if it is one
    SoftMachine* soft = nullptr;  // or if it is the other
    // When the workload proper was first seen to run, and what had been done by then.
    std::optional<MonotonicTime> running_since;
    uint64_t operations_before = 0;
  };

  bool managed() const { return options_.engine == Engine::kQuire; }
  absl::Status PrepareContent();
  absl::Status PrepareProgram();
  absl::Status PrepareManager();
  absl::Status AddGuest(int number);
  absl::Status AddMachine(Guest& guest, uint64_t seed);
  void OnStopped(GuestMemory& memory, const absl::Status& reason);

  Snapshot Sample();
  GuestSnapshot SampleGuest(Guest& guest);
  bool AllFinished() const;
  // The others can use what a guest had that ended before its time.
  void FreeMemoryOfFinished();
  void Finish(ProgressSink& progress);

  GuestReport ReportGuest(int number) const;
  void ReportManager(Report& report);
  void ReportCompaction(Report& report);
  void ReportTranslations(Report& report);

  const RunOptions& options_;
  std::optional<ContentFile> content_file_;
  Work work_;
  double content_ratio_ = 0;
  std::string payload_;  // the user's program
  ElfImage program_;
  std::optional<KvmSystem> kvm_;
  std::unique_ptr<MemoryManager> manager_;
  GuestConsoles console_;
  std::vector<Guest> guests_;  // in the order of GuestMemory::id()
  MonotonicTime start_;
  absl::Duration elapsed_;
};

GuestRun::~GuestRun() {
  // A secondary MMU leaves before the memory that it maps.
  for (Guest& guest : guests_) guest.machine.reset();
}

absl::Status GuestRun::Prepare() {
  if (absl::Status status = PrepareContent(); !status.ok()) return status;
  // Before anything that starts threads: making the pool's file forks.
  if (absl::Status status = PrepareManager(); !status.ok()) return status;
  if (options_.accel == Accel::kKvm) {
    if (absl::Status status = PrepareProgram(); !status.ok()) return status;
  }
  guests_.reserve(static_cast<size_t>(options_.guests));
  for (int i = 0; i < options_.guests; ++i) {
    if (absl::Status status = AddGuest(i); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status GuestRun::PrepareContent() {
  if (options_.payload.has_value()) return absl::OkStatus();
  absl::StatusOr<WorkloadSpec> spec = ParseWorkload(options_.workload);
  if (!spec.ok()) return spec.status();
  work_.spec = *spec;
  Content content{.key = options_.seed};
  if (options_.content.has_value()) {
    absl::StatusOr<ContentFile> file = ContentFile::Load(*options_.content);
    if (!file.ok()) return file.status();
    content_file_ = *std::move(file);
    work_.file = &*content_file_;
    content.file_pages = content_file_->words();
    content.file_page_count = content_file_->size().in_pages();
  } else {
    work_.fresh_pairs = content.fresh_pairs = FreshPairsFor(options_.compressibility, options_.seed);
  }
  content_ratio_ = MeasureContentRatio(content, kRatioSample);
  return absl::OkStatus();
}

absl::Status GuestRun::PrepareProgram() {
  absl::StatusOr<KvmSystem> kvm = KvmSystem::Open();
  if (!kvm.ok()) return kvm.status();
  kvm_ = *std::move(kvm);
  absl::Span<const std::byte> bytes = WorkloadPayload();
  if (options_.payload.has_value()) {
    absl::StatusOr<std::string> file = ReadWhole("payload", *options_.payload, kLargestPayload);
    if (!file.ok()) return file.status();
    payload_ = *std::move(file);
    bytes = absl::MakeSpan(reinterpret_cast<const std::byte*>(payload_.data()), payload_.size());
  }
  absl::StatusOr<ElfImage> program =
      ParseElf(options_.payload.value_or("the built-in payload"), bytes, options_.memory);
  if (!program.ok()) return program.status();
  program_ = *std::move(program);
  return absl::OkStatus();
}

absl::Status GuestRun::PrepareManager() {
  if (!managed()) return absl::OkStatus();
  const PageCount memory = PageCount::OfBlocks(PageCount::Ceil(options_.memory).in_blocks_ceil());
  const bool windows = options_.accel == Accel::kKvm;
  absl::StatusOr<std::unique_ptr<MemoryManager>> manager = MemoryManager::Create(
      {.limit = PageCount(options_.pool.in_bytes() / kPageSize),
       .reservations = windows ? memory * static_cast<uint64_t>(options_.guests) : PageCount(),
       .granularity = {.blocks = options_.huge == Huge::kAlways},
       .compaction = options_.defrag,
       .out_of_memory_advice = "raise the limit with --pool, or lower --guests or --memory",
       .on_stopped = [this](GuestMemory& m, const absl::Status& reason) { OnStopped(m, reason); }});
  if (!manager.ok()) return manager.status();
  manager_ = *std::move(manager);
  return absl::OkStatus();
}

absl::Status GuestRun::AddGuest(int number) {
  Guest& guest = guests_.emplace_back();
  guest.name = absl::StrCat("guest-", number);
  if (managed()) {
    absl::StatusOr<GuestMemory*> memory = manager_->AddGuest(
        PageCount::Ceil(options_.memory), options_.accel == Accel::kKvm ? Placement::kReservation : Placement::kArena);
    if (!memory.ok()) return memory.status();
    guest.memory = *memory;
  }
  // Guests differ, and a seed makes each of them repeat.
  return AddMachine(guest, options_.seed * 1000 + static_cast<uint64_t>(number));
}

absl::Status GuestRun::AddMachine(Guest& guest, uint64_t seed) {
  Pool* const pool = managed() ? &manager_->pool() : nullptr;
  if (options_.accel == Accel::kSoft) {
    absl::StatusOr<std::unique_ptr<SoftMachine>> machine = SoftMachine::Create(
        {.name = guest.name, .memory = options_.memory, .vcpus = options_.vcpus, .work = &work_, .seed = seed}, pool,
        guest.memory);
    if (!machine.ok()) return machine.status();
    guest.soft = machine->get();
    guest.machine = *std::move(machine);
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<KvmMachine>> machine =
      KvmMachine::Create(*kvm_,
                         {.name = guest.name,
                          .memory = options_.memory,
                          .vcpus = options_.vcpus,
                          .program = &program_,
                          .work = options_.payload.has_value() ? nullptr : &work_,
                          .seed = seed,
                          .console = console_.For(guest.name)},
                         pool, guest.memory);
  if (!machine.ok()) return machine.status();
  guest.kvm = machine->get();
  guest.machine = *std::move(machine);
  return absl::OkStatus();
}

void GuestRun::OnStopped(GuestMemory& memory, const absl::Status& reason) {
  guests_[memory.id()].machine->Kill(reason);
}

void GuestRun::Execute(ProgressSink& progress) {
  if (managed()) manager_->StartReclaim();
  start_ = RealClock().Now();
  for (Guest& guest : guests_) guest.machine->Start();
  const MonotonicTime end = start_ + options_.duration;
  while (!AllFinished() && RealClock().Now() < end && !progress.interrupted()) {
    absl::SleepFor(std::min(kSampleInterval, end - RealClock().Now()));
    console_.Flush(progress);
    progress.Update(Sample());
    if (!AllFinished()) FreeMemoryOfFinished();
  }
  Finish(progress);
}

void GuestRun::Finish(ProgressSink& progress) {
  for (Guest& guest : guests_) guest.machine->RequestStop();
  const MonotonicTime give_up = RealClock().Now() + kStopGrace;
  while (!AllFinished() && RealClock().Now() < give_up) {
    absl::SleepFor(absl::Milliseconds(2));
    Sample();
  }
  for (Guest& guest : guests_) {
    if (guest.machine->finished()) continue;
    guest.machine->Kill(absl::DeadlineExceededError(
        "it was told to stop (boot_info->stop) and did not within 20 seconds, so it was ended"));
  }
  for (Guest& guest : guests_) guest.machine->Join();
  elapsed_ = RealClock().Now() - start_;
  progress.Update(Sample());
  console_.Flush(progress, /*end=*/true);
}

void GuestRun::FreeMemoryOfFinished() {
  for (Guest& guest : guests_) {
    if (guest.memory == nullptr || guest.memory->stopped() || !guest.machine->finished()) continue;
    guest.memory->Stop(absl::CancelledError("the guest has ended"));
    guest.memory->Discard(GfnRange(Gfn(0), guest.memory->size()));
  }
}

bool GuestRun::AllFinished() const {
  return std::all_of(guests_.begin(), guests_.end(), [](const Guest& guest) { return guest.machine->finished(); });
}

Snapshot GuestRun::Sample() {
  Snapshot snapshot{.elapsed = RealClock().Now() - start_, .duration = options_.duration};
  for (Guest& guest : guests_) snapshot.guests.push_back(SampleGuest(guest));
  if (managed()) {
    snapshot.pool_used = manager_->pool().budget().charged().bytes();
    snapshot.pool_limit = manager_->pool().budget().limit().bytes();
  }
  return snapshot;
}

GuestSnapshot GuestRun::SampleGuest(Guest& guest) {
  const Machine::Progress p = guest.machine->ReadProgress();
  const bool finished = guest.machine->finished();
  if (p.phase > 0 && !finished && !guest.running_since.has_value()) {
    guest.running_since = RealClock().Now();
    guest.operations_before = p.operations;
  }
  GuestSnapshot s{.name = guest.name,
                  .operations = p.operations,
                  .mismatched_pages = p.mismatched_pages,
                  .memory = options_.memory};
  using State = GuestSnapshot::State;
  s.state = !guest.machine->exit().ok() ? State::kStopped
            : finished                  ? State::kFinished
            : p.phase > 0               ? State::kRunning
                                        : State::kFilling;
  if (guest.memory == nullptr) return s;
  const PageStateCounts& pages = guest.memory->counts();
  s.resident = (pages[PageState::kResident] + pages[PageState::kInTransit]).bytes();
  s.out = pages[PageState::kOut].bytes();
  s.compressed = pages[PageState::kSwapped].bytes();
  s.faults = guest.memory->faults();
  return s;
}

// --- The report.

Report GuestRun::MakeReport() {
  Report report;
  report.engine = options_.engine;
  report.accel = options_.accel;
  report.content_ratio = content_ratio_;
  report.elapsed_seconds = absl::ToDoubleSeconds(elapsed_);
  for (int i = 0; i < options_.guests; ++i) report.guests.push_back(ReportGuest(i));
  for (const Guest& guest : guests_) report.cpu_seconds.vcpus += absl::ToDoubleSeconds(guest.machine->vcpu_time());
  ReportTranslations(report);
  if (managed()) ReportManager(report);
  return report;
}

GuestReport GuestRun::ReportGuest(int number) const {
  const Guest& guest = guests_[static_cast<size_t>(number)];
  const Machine::Progress p = guest.machine->ReadProgress();
  GuestReport r{.id = number,
                .name = guest.name,
                .memory_bytes = options_.memory,
                .vcpus = options_.vcpus,
                .exit = guest.machine->exit(),
                .operations = p.operations,
                .verified_pages = p.verified_pages,
                .mismatched_pages = p.mismatched_pages};
  if (r.exit.ok() && !p.first_mismatch.empty()) r.exit = absl::DataLossError(p.first_mismatch);
  // A guest that was never seen to run is measured from its start, filling included.
  const MonotonicTime since = guest.running_since.value_or(start_);
  if (const MonotonicTime end = guest.machine->ended(); end > since) {
    r.operations_per_second =
        static_cast<double>(p.operations - guest.operations_before) / absl::ToDoubleSeconds(end - since);
  }
  return r;
}

void GuestRun::ReportManager(Report& report) {
  Pool& pool = manager_->pool();
  const CompressedStore::Statistics stored = manager_->store().statistics();
  report.huge_pages = pool.file().backing() == PoolFile::Backing::kTmpfs;
  report.pool.limit_bytes = pool.budget().limit().bytes();
  report.pool.peak_bytes = pool.budget().peak().bytes();
  report.pool.resident_bytes =
      (manager_->PagesIn(PageState::kResident) + manager_->PagesIn(PageState::kInTransit)).bytes();
  report.pool.out_bytes = manager_->PagesIn(PageState::kOut).bytes();
  report.pool.compressed_bytes = stored.held.bytes();
  report.pool.wired_bytes = pool.wired().bytes();
  report.pool.free_bytes = (pool.budget().limit() - pool.budget().charged() + pool.arena().counts().free).bytes();
  report.pool.metadata_bytes += manager_->metadata();

  const FaultCounters& faults = manager_->faults();
  report.faults.total = faults.total.value();
  report.faults.zero_fill = faults.zero_fill.value();
  report.faults.second_chance = faults.second_chance.value();
  report.faults.swap_in = faults.swap_in.value();
  report.faults.already_resident = faults.already_resident.value();
  report.faults.huge = report.huge.whole_faults = faults.whole.value();
  report.huge.promotions = faults.promotions.value();
  ReportCompaction(report);

  const SwapCounters& swap = manager_->swap();
  report.swap.pages_out = swap.pages_out.value();
  report.swap.pages_in = swap.pages_in.value();
  report.swap.stored_pages = stored.stored.in_pages();
  report.swap.stored_bytes = stored.stored_bytes;
  report.swap.same_filled_pages = stored.same_filled.in_pages();
  report.swap.tiers.push_back(
      {.name = "ram", .pages = stored.stored.in_pages(), .bytes = stored.stored_bytes, .errors = stored.errors});
  report.cpu_seconds.reclaim =
      absl::ToDoubleSeconds(manager_->reclaimer().cpu_time() + manager_->compactor().cpu_time());
}

void GuestRun::ReportCompaction(Report& report) {
  const FreeRuns runs = manager_->pool().arena().free_runs();
  report.huge.unusable_free_index = UnusableFreeIndex(runs, kBlockOrder);
  report.huge.fragmentation_index = FragmentationIndex(runs, kBlockOrder);
  const Compaction* const compaction = manager_->pool().compaction();
  if (compaction == nullptr) return;
  const CompactionCounters& counters = compaction->counters();
  report.huge.compactions = counters.blocks.value() + counters.ranges.value();
  report.huge.migrated_pages = counters.migrated_pages.value();
  report.huge.refused["compaction: a page stayed busy"] = counters.refused_busy.value();
  report.huge.refused["compaction: a page cannot be moved"] = counters.refused_cannot.value();
  report.huge.refused["compaction: no room to move to"] = counters.refused_no_room.value();
  report.huge.refused["compaction: the memory was needed"] = counters.refused_wanted.value();
  report.huge.refused["compaction: put off after failures"] = manager_->compactor().counters().refused_deferred.value();
}

void GuestRun::ReportTranslations(Report& report) {
  LatencyHistogram latency;
  for (Guest& guest : guests_) {
    if (guest.kvm != nullptr) report.huge.blocks_mapped += guest.kvm->KvmStatistic("pages_2m");
    if (guest.memory == nullptr) continue;
    report.notifier.invalidations += guest.memory->notifiers().invalidations();
    report.notifier.pages += guest.memory->notifiers().pages();
    if (guest.kvm != nullptr) {
      KvmWindow& window = *guest.kvm->window();
      report.notifier.retries += window.counters().retries.value();
      report.huge.refused["the host kernel would not map it whole"] += window.counters().blocks_refused.value();
      report.cpu_seconds.fault += absl::ToDoubleSeconds(window.cpu_time());
      latency.Add(window.counters().latency);
    } else {
      const EptStatistics ept = guest.soft->ept()->statistics();
      report.notifier.retries += ept.retries;
      report.huge.blocks_mapped += ept.blocks;
      report.pool.metadata_bytes += ept.metadata;
      latency.Add(guest.soft->ept()->fault_latency());
    }
  }
  report.faults.p50_us = absl::ToDoubleMicroseconds(latency.Percentile(50));
  report.faults.p99_us = absl::ToDoubleMicroseconds(latency.Percentile(99));
}

}  // namespace

ByteCount MinimumPool(const RunOptions& options) {
  // What the pool itself needs, and a block for each guest to run in.
  return MinimumPoolLimit().bytes() + PageCount::OfBlocks(static_cast<uint64_t>(options.guests)).bytes();
}

ByteCount GuestAddressSpace() { return ByteCount::Bytes(QUIRE_AUX - QUIRE_MEMORY); }

absl::StatusOr<Report> RunGuests(const RunOptions& options, ProgressSink& progress) {
  GuestRun run(options);
  if (absl::Status status = run.Prepare(); !status.ok()) return status;
  run.Execute(progress);
  return run.MakeReport();
}

}  // namespace quire
