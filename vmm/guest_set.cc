#include "vmm/guest_set.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/thread.h"
#include "guest/frames/budget.h"
#include "guest/frames/pool.h"
#include "guest/guest_limits.h"
#include "guest/island_budget.h"
#include "guest/swap/swap_area.h"
#include "vmm/boot/test_initramfs.h"
#include "vmm/files.h"
#include "vmm/machine/pc_devices.h"
#include "vmm/swap_spec.h"
#include "vmm/virtio/balloon.h"
#include "workloads/content_ratio.h"
#include "workloads/guest_abi.h"
#include "workloads/payload/embedded_payload.h"
#include "workloads/spec.h"

namespace quire {
namespace {

constexpr ByteCount kLargestPayload = ByteCount::MiB(256);
constexpr ByteCount kLargestKernel = ByteCount::GiB(1);
constexpr ByteCount kLargestInitrd = ByteCount::GiB(2);

// How many pages of content are sampled to measure its compression ratio.
constexpr PageCount kRatioSample(1024);

// Enough for all that guests can have, if nobody says how large a swap file is to be.
ByteCount SwapFileSize(const RunOptions& options) {
  return std::max(PageCount::Ceil(options.all_memory()).bytes(), ByteCount::Bytes(SwapArea::kLeastBytes));
}

// A guest under KVM takes about six files, and most shells allow 1024 until a process asks for more.
void RaiseFileLimit() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);  // where it is refused, a guest that cannot be made says why
}

absl::Span<const std::byte> BytesOf(const std::string& file) {
  return absl::MakeSpan(reinterpret_cast<const std::byte*>(file.data()), file.size());
}

PageCount WholeBlocks(ByteCount memory) { return PageCount::OfBlocks(PageCount::Ceil(memory).in_blocks_ceil()); }

AnonymousBlocks AnonymousBlocksOf(const RunOptions& options) {
  return options.huge == Huge::kAdvise ? AnonymousBlocks::kAdvised : AnonymousBlocks::kWanted;
}

}  // namespace

ByteCount MinimumPool(const RunOptions& options) {
  // What the pool itself needs, and a block for each guest to run in.
  return MinimumPoolLimit().bytes() + PageCount::OfBlocks(static_cast<uint64_t>(options.machines())).bytes();
}

ByteCount GuestAddressSpace() { return ByteCount::Bytes(QUIRE_AUX - QUIRE_MEMORY); }

absl::StatusOr<std::unique_ptr<GuestSet>> GuestSet::Create(const RunOptions& options, const WorkloadSpec& workload) {
  auto set = absl::WrapUnique(new GuestSet(options));
  if (absl::Status status = set->Prepare(workload); !status.ok()) return status;
  return set;
}

GuestSet::~GuestSet() {
  if (manager_ != nullptr) manager_->CancelSwap();
  terminal_.reset();
  // A secondary MMU leaves before the memory that it maps.
  for (Guest& guest : guests_) guest.machine.reset();
}

absl::Status GuestSet::Prepare(const WorkloadSpec& workload) {
  if (absl::Status status = PrepareContent(workload); !status.ok()) return status;
  // Before anything that starts threads: making the pool's file forks.
  if (absl::Status status = PrepareManager(); !status.ok()) return status;
  if (options_.accel == Accel::kKvm) {
    if (absl::Status status = OpenKvm(); !status.ok()) return status;
    if (absl::Status status = options_.pc ? PrepareKernel() : PrepareProgram(); !status.ok()) return status;
  }
  guests_.reserve(static_cast<size_t>(options_.machines()));
  RaiseFileLimit();
  for (size_t group = 0; group < groups_.size(); ++group) {
    if (absl::Status status = AddGroup(group); !status.ok()) return status;
  }
  return CheckMemoryOffer();
}

std::string GuestSet::NameOf(size_t group, int number) const {
  if (options_.clones > 0) return "template";
  if (options_.pc && !options_.pc->name.empty()) return options_.pc->name;
  return absl::StrCat(groups_[group].name, "-", number);
}

absl::Status GuestSet::AddGroup(size_t group) {
  for (int i = 0; i < groups_[group].guests; ++i) {
    if (absl::Status status = AddGuest(group, NameOf(group, i), static_cast<int>(guests_.size())); !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

absl::Status GuestSet::CheckMemoryOffer() {
  if (!managed()) return absl::OkStatus();
  const Pool& pool = manager_->pool();
  // What lies below the min watermark is for reclaim, and what is wired has been taken by now.
  const PageCount reserve = std::min(pool.watermarks().min, pool.FreePages());
  MemoryOffer offer{.pool = {}, .swap = {}};
  for (const std::unique_ptr<SwapArea>& area : manager_->store().areas()) offer.swap += area->dependable_bytes();
  // What lies in areas is remembered in the pool.
  const PageCount tables = SwapSpace::TablesFor(PageCount::Ceil(offer.swap));
  offer.pool = (pool.FreePages() - std::min(pool.FreePages(), reserve + tables)).bytes();
  return CheckOvercommit(options_, offer);
}

absl::Status GuestSet::PrepareContent(const WorkloadSpec& workload) {
  if (!options_.has_workload()) return absl::OkStatus();
  Work work{.spec = workload, .common_key = options_.seed};
  Content content{.key = options_.seed};
  if (options_.content.has_value()) {
    absl::StatusOr<ContentFile> file = ContentFile::Load(*options_.content);
    if (!file.ok()) return file.status();
    content_file_ = *std::move(file);
    work.file = &*content_file_;
    content.file_pages = content_file_->words();
    content.file_page_count = content_file_->size().in_pages();
  } else {
    work.fresh_pairs = content.fresh_pairs = FreshPairsFor(options_.compressibility, options_.seed);
  }
  content_ratio_ = MeasureContentRatio(content, kRatioSample);
  works_.assign(groups_.size(), work);
  for (size_t i = 0; i < options_.groups.size(); ++i) {
    const absl::StatusOr<WorkloadSpec> spec = ParseWorkload(groups_[i].workload);
    if (!spec.ok()) return spec.status();
    works_[i].spec = *spec;
  }
  return absl::OkStatus();
}

absl::Status GuestSet::PrepareManager() {
  if (!managed()) return absl::OkStatus();
  PageCount memory = WholeBlocks(options_.memory) * static_cast<uint64_t>(options_.clones);
  for (const GuestGroup& group : groups_) memory += WholeBlocks(group.memory) * static_cast<uint64_t>(group.guests);
  const bool windows = options_.accel == Accel::kKvm;
  // Without /proc, guests behind windows share nothing.
  const absl::StatusOr<PageCount> islands =
      windows ? IslandBudget::LimitOfProcess(static_cast<uint64_t>(options_.machines())) : PageCount();
  absl::StatusOr<std::unique_ptr<MemoryManager>> manager = MemoryManager::Create(
      {.limit = PageCount(options_.pool.in_bytes() / kPageSize),
       .reservations = windows ? memory : PageCount(),
       .granularity = {.blocks = options_.huge != Huge::kNever,
                       .advised_only = options_.huge == Huge::kAdvise,
                       .stream_faults = static_cast<uint8_t>(options_.huge_policy.stream),
                       .concentrated_faults = static_cast<uint8_t>(options_.huge_policy.faults),
                       .concentration_window = static_cast<uint16_t>(options_.huge_policy.window)},
       .compaction = options_.defrag,
       .reclaim_threads = options_.reclaim_threads,
       .merge = options_.merge == Merge::kOn,
       .islands = islands.value_or(PageCount()),
       .open_swap = [this] { return OpenSwap(options_.swap, SwapFileSize(options_), options_.swap_retry); },
       .await_swap = options_.swap_retry,
       .out_of_memory_advice = "raise the limit with --pool, or lower --guests or --memory",
       .on_stopped = [this](GuestMemory& m, const absl::Status& reason) { OnStopped(m, reason); }});
  if (!manager.ok()) return manager.status();
  manager_ = *std::move(manager);
  return absl::OkStatus();
}

absl::Status GuestSet::OpenKvm() {
  absl::StatusOr<KvmSystem> kvm = KvmSystem::Open();
  if (!kvm.ok()) return kvm.status();
  kvm_ = *std::move(kvm);
  return absl::OkStatus();
}

absl::Status GuestSet::PrepareKernel() {
  absl::StatusOr<std::string> file = ReadWhole("kernel", options_.pc->kernel, kLargestKernel);
  if (!file.ok()) return file.status();
  kernel_file_ = *std::move(file);
  absl::StatusOr<KernelImage> kernel = ParseKernel(options_.pc->kernel, BytesOf(kernel_file_));
  if (!kernel.ok()) return kernel.status();
  kernel_ = *std::move(kernel);
  if (!options_.pc->initrd) return absl::OkStatus();
  file = ReadWhole("initrd", *options_.pc->initrd, kLargestInitrd);
  if (!file.ok()) return file.status();
  initrd_file_ = *std::move(file);
  return absl::OkStatus();
}

absl::Status GuestSet::PrepareProgram() {
  absl::Span<const std::byte> bytes = WorkloadPayload();
  if (options_.payload.has_value()) {
    absl::StatusOr<std::string> file = ReadWhole("payload", *options_.payload, kLargestPayload);
    if (!file.ok()) return file.status();
    payload_ = *std::move(file);
    bytes = BytesOf(payload_);
  }
  ByteCount least = groups_.front().memory;
  for (const GuestGroup& group : groups_) least = std::min(least, group.memory);
  absl::StatusOr<ElfImage> program = ParseElf(options_.payload.value_or("the built-in payload"), bytes, least);
  if (!program.ok()) return program.status();
  program_ = *std::move(program);
  return absl::OkStatus();
}

absl::Status GuestSet::AddGuest(size_t group, const std::string& name, int number) {
  Guest guest{.name = name, .group = group, .size = groups_[group].memory, .machine = nullptr};
  if (managed()) {
    absl::StatusOr<GuestMemory*> memory = manager_->AddGuest(
        PageCount::Ceil(guest.size), options_.accel == Accel::kKvm ? Placement::kReservation : Placement::kArena,
        LimitsOfGuest());
    if (!memory.ok()) return memory.status();
    guest.memory = *memory;
  }
  // Guests differ, and a seed makes each of them repeat.
  const uint64_t seed = options_.seed * 1000 + static_cast<uint64_t>(number);
  absl::Status status = options_.pc ? AddPcMachine(guest, number) : AddMachine(guest, seed, /*clone=*/0);
  if (!status.ok()) return status;
  guest.machine->SetIdle(groups_[group].idle_percent);
  Publish(std::move(guest));
  return absl::OkStatus();
}

absl::Status GuestSet::AddPcMachine(Guest& guest, int number) {
  absl::StatusOr<std::function<void(absl::string_view)>> console = OpenConsole(guest, number);
  if (!console.ok()) return console.status();
  listeners_.push_back(std::make_unique<ConsoleListener>(*std::move(console)));
  ConsoleListener* const listener = listeners_.back().get();
  guest.console = listener;
  absl::StatusOr<std::unique_ptr<PcMachine>> machine =
      PcMachine::Create(*kvm_,
                        {.name = guest.name,
                         .memory = guest.size,
                         .vcpus = GroupOf(guest).vcpus,
                         .kernel = &*kernel_,
                         .initrd = options_.pc->own_initramfs ? TestInitramfs() : BytesOf(initrd_file_),
                         .command_line = GroupOf(guest).command_line,
                         .devices = {.disks = options_.pc->disks,
                                     .balloon = options_.pc->balloon,
                                     .balloon_offer = options_.pc->balloon_offer,
                                     .console = [listener](absl::string_view bytes) { listener->Write(bytes); }},
                         .window = {.spin = HasSpareCpu()},
                         .anonymous_blocks = AnonymousBlocksOf(options_)},
                        managed() ? &manager_->pool() : nullptr, guest.memory);
  if (!machine.ok()) return machine.status();
  guest.vm = guest.pc = machine->get();
  guest.machine = *std::move(machine);
  return absl::OkStatus();
}

absl::StatusOr<std::function<void(absl::string_view)>> GuestSet::OpenConsole(const Guest& guest, int number) {
  const ConsoleTarget target = options_.pc->console.value_or(ConsoleTarget{});
  if (target.kind == ConsoleTarget::Kind::kLines) return console_.For(guest.name);
  if (target.kind == ConsoleTarget::Kind::kFile) {
    absl::StatusOr<std::unique_ptr<ConsoleFile>> file = ConsoleFile::Create(target.PathOf(number), target.how);
    if (!file.ok()) return file.status();
    console_files_.push_back(*std::move(file));
    return [to = console_files_.back().get()](absl::string_view bytes) { to->Write(bytes); };
  }
  // There is one guest, whose devices are there before a key arrives that means anything to it.
  absl::StatusOr<std::unique_ptr<TerminalConsole>> terminal =
      TerminalConsole::Open(STDIN_FILENO, STDOUT_FILENO, [this](absl::string_view keys) { Type(keys); });
  if (!terminal.ok()) return terminal.status();
  terminal_ = *std::move(terminal);
  return [this](absl::string_view bytes) { terminal_->Write(bytes); };
}

void GuestSet::Type(absl::string_view keys) {
  absl::MutexLock lock(&publish_lock_);
  if (!guests_.empty()) guests_.front().pc->devices().TypeOnConsole(keys);
}

void GuestSet::Publish(Guest guest) {
  absl::MutexLock lock(&publish_lock_);
  guests_.push_back(std::move(guest));
}

GuestLimits GuestSet::LimitsOfGuest() const {
  return {.frames = PageCount::Ceil(options_.guest_pool_limit.value_or(ByteCount())),
          .swapped = PageCount::Ceil(options_.guest_swap_limit.value_or(ByteCount())),
          .advice = "raise --guest_pool_limit or --guest_swap_limit, or lower --memory"};
}

absl::Status GuestSet::AddClone(int number) {
  absl::StatusOr<GuestMemory*> memory = manager_->Clone(*guests_.front().memory, LimitsOfGuest());
  if (!memory.ok()) return memory.status();
  Guest guest{.name = absl::StrCat("clone-", number), .size = options_.memory, .memory = *memory, .machine = nullptr};
  if (absl::Status status = AddMachine(guest, /*seed=*/0, static_cast<uint64_t>(number)); !status.ok()) {
    manager_->RemoveGuest(*memory);
    return status;
  }
  Publish(std::move(guest));
  return absl::OkStatus();
}

absl::Status GuestSet::AddMachine(Guest& guest, uint64_t seed, uint64_t clone) {
  return options_.accel == Accel::kSoft ? AddSoftMachine(guest, seed, clone) : AddKvmMachine(guest, seed, clone);
}

absl::Status GuestSet::AddSoftMachine(Guest& guest, uint64_t seed, uint64_t clone) {
  absl::StatusOr<std::unique_ptr<SoftMachine>> machine =
      SoftMachine::Create({.name = guest.name,
                           .memory = guest.size,
                           .vcpus = GroupOf(guest).vcpus,
                           .work = &works_[guest.group],
                           .seed = seed,
                           .anonymous_blocks = AnonymousBlocksOf(options_),
                           .freezes = options_.clones > 0 && clone == 0,
                           .clone_of = clone == 0 ? nullptr : guests_.front().soft,
                           .clone = clone},
                          managed() ? &manager_->pool() : nullptr, guest.memory);
  if (!machine.ok()) return machine.status();
  guest.soft = machine->get();
  guest.machine = *std::move(machine);
  return absl::OkStatus();
}

absl::Status GuestSet::AddKvmMachine(Guest& guest, uint64_t seed, uint64_t clone) {
  absl::StatusOr<std::unique_ptr<KvmMachine>> machine =
      KvmMachine::Create(*kvm_,
                         {.name = guest.name,
                          .memory = guest.size,
                          .vcpus = GroupOf(guest).vcpus,
                          .program = &program_,
                          .work = options_.payload.has_value() ? nullptr : &works_[guest.group],
                          .seed = seed,
                          .window = {.spin = HasSpareCpu()},
                          .anonymous_blocks = AnonymousBlocksOf(options_),
                          .freezes = options_.clones > 0 && clone == 0,
                          .clone_of = clone == 0 ? nullptr : guests_.front().kvm,
                          .clone = clone,
                          .console = console_.For(guest.name)},
                         managed() ? &manager_->pool() : nullptr, guest.memory);
  if (!machine.ok()) return machine.status();
  guest.vm = guest.kvm = machine->get();
  guest.machine = *std::move(machine);
  return absl::OkStatus();
}

absl::StatusOr<GuestSet::CloneTimes> GuestSet::StartClones() {
  CloneTimes times;
  Guest& frozen = guests_.front();
  frozen.machine->Join();
  if (frozen.kvm != nullptr) frozen.kvm->BecomeTemplate();
  if (frozen.soft != nullptr) frozen.soft->BecomeTemplate();
  if (absl::Status status = manager_->Freeze(*frozen.memory); !status.ok()) return status;
  times.freeze = RealClock().Now() - frozen.machine->ended();
  const ByteCount metadata = manager_->metadata();
  for (int i = 1; i <= options_.clones; ++i) {
    const PageCount charged = manager_->pool().budget().charged();
    const MonotonicTime start = RealClock().Now();
    if (absl::Status status = AddClone(i); !status.ok()) return status;
    times.clones.push_back(RealClock().Now() - start);
    times.pool_each += (std::max(manager_->pool().budget().charged(), charged) - charged).bytes();
  }
  const uint64_t clones = static_cast<uint64_t>(options_.clones);
  times.pool_each = ByteCount::Bytes(times.pool_each.in_bytes() / clones);
  const ByteCount more = std::max(manager_->metadata(), metadata) - metadata;
  times.metadata_each = ByteCount::Bytes(more.in_bytes() / clones);
  for (size_t i = 1; i < guests_.size(); ++i) guests_[i].machine->Start();
  return times;
}

bool GuestSet::HasSpareCpu() const {
  int vcpus = 0;
  for (const GuestGroup& group : groups_) vcpus += group.guests * group.vcpus;
  return static_cast<unsigned>(std::max(vcpus, options_.clones * options_.vcpus)) < std::thread::hardware_concurrency();
}

void GuestSet::OnStopped(GuestMemory& memory, const absl::Status& reason) {
  // A guest that is being made is not there yet, and will find its memory stopped.
  absl::MutexLock lock(&publish_lock_);
  if (memory.id() < guests_.size()) guests_[memory.id()].machine->Kill(reason);
}

void GuestSet::Start() {
  if (managed()) manager_->StartReclaim();
  for (Guest& guest : guests_) {
    if (!options_.schedule.has_value() || !options_.schedule->StartsLater(guest.group)) guest.machine->Start();
  }
}

ScheduledGuests::State GuestSet::StateOf(size_t guest) const {
  const Machine& machine = *guests_[guest].machine;
  const bool started = machine.started();
  return {.started = started,
          .filled = machine.ReadProgress().phase > 0,
          .finished = started && machine.finished(),
          .out_of_memory = absl::IsResourceExhausted(machine.exit())};
}

void GuestSet::SetBalloon(size_t guest, ByteCount size) {
  if (guests_[guest].pc == nullptr) return;
  guests_[guest].pc->devices().balloon().SetTarget(PageCount(size.in_bytes() / kPageSize));
}

GuestTotals GuestSet::CountAll() const {
  GuestTotals totals{.cpu = ProcessCpuTime()};
  for (const Guest& guest : guests_) {
    totals.operations += guest.ReadProgress().operations;
    if (guest.memory != nullptr) totals.faults += guest.memory->faults();
    guest.machine->AddLatency(totals.latency);
  }
  return totals;
}

Machine::Progress GuestSet::Guest::ReadProgress() const {
  Machine::Progress progress = machine->ReadProgress();
  if (console != nullptr) progress.operations = console->operations();
  return progress;
}

void GuestSet::RequestStop() {
  for (Guest& guest : guests_) guest.machine->RequestStop();
}

bool GuestSet::AllFinished() const {
  return std::all_of(guests_.begin(), guests_.end(), [](const Guest& guest) { return guest.machine->finished(); });
}

void GuestSet::Join() {
  for (Guest& guest : guests_) guest.machine->Join();
}

}  // namespace quire
