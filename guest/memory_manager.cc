#include "guest/memory_manager.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "absl/container/flat_hash_map.h"
#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/clock.h"
#include "guest/swap/duplicate_hints.h"

namespace quire {
namespace {

// What is written to a swap area before the thread looks at the pool again.
constexpr ByteCount kWriteAtOnce = ByteCount::MiB(1);

// Fewer frames than a fault asks reclaim for would only put the end off.
constexpr PageCount kWorthAnotherTry{64};

// Frames that are won from the compressed store before the thread looks whether it is to stop.
constexpr PageCount kCompactAtOnce{256};

// Shared frames that reclaim looks at after each batch of private pages, if all of the pool were shared; and in one go
// when it finds nothing else.
constexpr uint64_t kSharedShare = 128;
constexpr PageCount kSharedAtOnce{64};

// Pages that are compressed once more, at 40 us each, before the thread looks at the pool again; and before a fault
// that found no memory does.
constexpr PageCount kRecompressAtOnce{64};
constexpr PageCount kRecompressForFault{1024};

// It takes one in so many parts of a CPU's time: what is cold stays cold, and guests want the CPU now.
constexpr int kRecompressorShare = 16;

// How long it rests when no area took anything.
constexpr absl::Duration kWriterRests = absl::Milliseconds(100);

}  // namespace

absl::StatusOr<std::unique_ptr<MemoryManager>> MemoryManager::Create(MemoryManagerOptions options) {
  absl::StatusOr<std::unique_ptr<Pool>> pool =
      Pool::Create({.limit = options.limit, .reservations = options.reservations, .use_memfd = options.use_memfd});
  if (!pool.ok()) return pool.status();
  std::vector<std::unique_ptr<BackingStore>> swap;
  if (options.open_swap) {
    absl::StatusOr<std::vector<std::unique_ptr<BackingStore>>> opened = options.open_swap();
    if (!opened.ok()) return opened.status();
    swap = *std::move(opened);
  }
  absl::StatusOr<CandidateTable> candidates = CandidateTable::Create(options.limit);
  if (!candidates.ok()) return candidates.status();
  auto manager =
      absl::WrapUnique(new MemoryManager(*std::move(pool), std::move(swap), *std::move(candidates), options));
  // Without merging they take no memory, and are there if it is switched on.
  absl::StatusOr<DuplicateHints> hints = DuplicateHints::Create(options.limit);
  if (!hints.ok()) return hints.status();
  manager->store_.SetDuplicateHints(*std::move(hints));
  return manager;
}

MemoryManager::MemoryManager(std::unique_ptr<Pool> pool, std::vector<std::unique_ptr<BackingStore>> swap,
                             CandidateTable candidates, const MemoryManagerOptions& options)
    : pool_(std::move(pool)),
      store_(*pool_, std::move(swap), options.await_swap, options.cold_after),
      shared_(*pool_),
      islands_(options.islands),
      wiring_(options.wired == PageCount() ? options.limit / 2 : options.wired, options.out_of_memory_advice),
      reverse_map_(shared_, store_, [this](GuestId id) ABSL_NO_THREAD_SAFETY_ANALYSIS { return FindGuest(id); }),
      reclaimer_(
          *pool_, [this](GuestMemory& asking) { OutOfMemory(asking); }, options.reclaim_threads),
      compactor_(*pool_, *this, options.compaction),
      merger_(
          *pool_, shared_, std::move(candidates), [this](auto visit) { WithGuests(visit); }, options.merger),
      out_of_memory_advice_(options.out_of_memory_advice),
      granularity_(options.granularity),
      block_policy_(PolicyOf(options.granularity)),
      on_stopped_(options.on_stopped) {
  SetMerging(options.merge);
  pool_->SetLowMemoryCallback([this] { reclaimer_.Wake(); });
  reclaimer_.SetShrinker([this](PageCount wanted) { return store_.DropKept(wanted); });
  reclaimer_.SetSharedReclaim([this](bool many) { return ReclaimShared(many); });
  reclaimer_.SetSqueeze([this] { return SqueezeStore(); });
  store_.SetOverShareCallback([this] { writer_.Wake(); });
  store_.SetScatteredCallback([this] { zones_.Wake(); });
  store_.SetGenerationCallback([this] { recompressor_.Wake(); });
}

MemoryManager::~MemoryManager() {
  CancelSwap();
  StopReclaim();
  absl::MutexLock lock(&guests_lock_);
  while (!guests_.empty()) guests_.pop_back();  // clones before their templates
}

absl::StatusOr<GuestMemory*> MemoryManager::AddGuest(PageCount size, Placement placement, const GuestLimits& limits) {
  return AddGuest(size, placement, limits, nullptr);
}

absl::Status MemoryManager::Freeze(GuestMemory& guest) {
  absl::MutexLock lock(&guests_lock_);  // so that nobody is stopping it for want of memory
  if (guest.stopped()) return guest.status();
  guest.Freeze();
  return absl::OkStatus();
}

absl::StatusOr<GuestMemory*> MemoryManager::Clone(GuestMemory& parent, const GuestLimits& limits) {
  const Placement placement = parent.reservation().empty() ? Placement::kArena : Placement::kReservation;
  return AddGuest(parent.size(), placement, limits, &parent);
}

absl::StatusOr<GuestMemory*> MemoryManager::AddGuest(PageCount size, Placement placement, const GuestLimits& limits,
                                                     GuestMemory* parent) {
  absl::MutexLock lock(&guests_lock_);
  // Numbers are not given again: chains and descriptors may still name a guest that has gone.
  if (next_guest_ == std::numeric_limits<uint16_t>::max()) {
    return absl::ResourceExhaustedError("a manager can have 65535 guests in its life, and has had them");
  }
  const GuestId id{next_guest_};
  std::unique_ptr<FrameSource> frames;
  FrameRange home;
  if (placement == Placement::kReservation) {
    absl::StatusOr<FrameRange> reservation = pool_->AddReservation(size);
    if (!reservation.ok()) return reservation.status();
    home = *reservation;
    frames = std::make_unique<ReservedFrames>(*pool_, home);
  } else {
    frames = std::make_unique<ArenaFrames>(*pool_, id);
  }
  absl::StatusOr<std::unique_ptr<GuestMemory>> guest =
      GuestMemory::Create(id, size, std::move(frames),
                          GuestServices{*pool_, store_, shared_, islands_, reclaimer_, prefetcher_, faults_, swap_,
                                        granularity_, block_policy_, compactor_, wiring_, on_stopped_},
                          limits, parent);
  if (!guest.ok() && !home.empty()) pool_->ReturnReservation(home);
  if (!guest.ok()) return guest.status();
  ++next_guest_;
  guests_.push_back(*std::move(guest));
  return guests_.back().get();
}

void MemoryManager::RemoveGuest(GuestMemory* guest) {
  while (guest != nullptr) guest = RemoveOne(guest);
}

GuestMemory* MemoryManager::RemoveOne(GuestMemory* guest) {
  GuestMemory* const parent = guest->parent();
  const FrameRange reservation = guest->reservation();
  {
    std::unique_ptr<GuestMemory> removed;  // destroyed without the lock: it waits for the reclaimer, which may want it
    absl::MutexLock lock(&guests_lock_);
    if (guest->has_clones()) {
      orphaned_.insert(guest);
      return nullptr;
    }
    const auto place = std::find_if(guests_.begin(), guests_.end(), [&](const auto& g) { return g.get() == guest; });
    QUIRE_CHECK(place != guests_.end());
    removed = std::move(*place);
    guests_.erase(place);
  }
  if (!reservation.empty()) pool_->ReturnReservation(reservation);
  // Whoever removes another clone at the same time may have removed the template by now: it is looked up first.
  absl::MutexLock lock(&guests_lock_);
  const auto orphan = parent == nullptr ? orphaned_.end() : orphaned_.find(parent);
  if (orphan == orphaned_.end() || parent->has_clones()) return nullptr;
  orphaned_.erase(orphan);
  return parent;
}

// Holds the list of guests, so that none goes away meanwhile.
void MemoryManager::Migrate(absl::Span<Move> moves, WholeBlocks whole) {
  absl::ReaderMutexLock lock(&guests_lock_);
  while (!moves.empty()) {
    const FrameDescriptor owner = moves[0].owner;
    size_t count = 1;
    if (owner.is(FrameKind::kZone)) {
      moves[0].answer = store_.Migrate(moves[0].from, owner, moves[0].to);
    } else if (owner.is(FrameKind::kShared)) {
      moves[0].answer = MigrateShared(moves[0]);
    } else {
      const auto alike = [&](FrameDescriptor other) {
        return other.is(FrameKind::kOwned) && other.guest() == owner.guest() &&
               BlockOf(other.gfn()) == BlockOf(owner.gfn());
      };
      while (count < moves.size() && alike(moves[count].owner)) ++count;
      if (GuestMemory* const guest = FindGuest(owner.guest())) guest->Migrate(moves.first(count), whole);
    }
    moves.remove_prefix(count);
  }
}

FrameMigrator::Answer MemoryManager::MigrateShared(const Move& move) {
  const std::optional<SharedFrames::Hold> frame = shared_.HoldFrame(move.from);
  const bool refused = !frame.has_value() || reverse_map_.Migrate(*frame, move.to) == ReverseMap::Outcome::kRefused;
  return refused ? Answer::kBusy : Answer::kMoved;
}

FrameMigrator::Answer MemoryManager::Evict(FrameNumber frame, FrameDescriptor owner) {
  if (owner.is(FrameKind::kZone)) return Answer::kCannot;
  absl::ReaderMutexLock lock(&guests_lock_);
  if (owner.is(FrameKind::kShared)) return EvictShared(frame);
  GuestMemory* const guest = FindGuest(owner.guest());
  return guest == nullptr ? Answer::kBusy : guest->EvictPage(owner.gfn(), frame);
}

FrameMigrator::Answer MemoryManager::EvictShared(FrameNumber frame) {
  const std::optional<SharedFrames::Hold> shared = shared_.HoldFrame(frame);
  if (!shared.has_value()) return Answer::kBusy;
  CompressionScratch scratch;
  switch (reverse_map_.Evict(*shared, scratch)) {
    case ReverseMap::Outcome::kDone:
    case ReverseMap::Outcome::kDoneAsIs:
      return Answer::kMoved;
    case ReverseMap::Outcome::kTryAgain:
      return Answer::kBusy;
    case ReverseMap::Outcome::kRefused:
      break;
  }
  return Answer::kCannot;
}

// In proportion to what they are of all frames, as Linux scans its lists.
PageCount MemoryManager::ReclaimShared(bool many) {
  const PageCount frames = shared_.frames();
  if (frames == PageCount()) return PageCount();
  CompressionScratch scratch;
  if (!many) {
    const PageCount look(1 + kSharedShare * frames.in_pages() / pool_->budget().limit().in_pages());
    absl::ReaderMutexLock lock(&guests_lock_);
    return reverse_map_.Reclaim(std::min(look, frames), look, scratch);
  }
  // Twice round: all of them may have been used.
  PageCount freed;
  for (PageCount looked; looked < frames * 2 && freed == PageCount(); looked += kSharedAtOnce) {
    absl::ReaderMutexLock lock(&guests_lock_);
    freed += reverse_map_.Reclaim(kSharedAtOnce, kSharedAtOnce, scratch);
  }
  return freed;
}

void MemoryManager::WithGuests(absl::FunctionRef<void(Merger::Guests)> visit) {
  absl::ReaderMutexLock lock(&guests_lock_);
  visit(guests_);
}

GuestMemory* MemoryManager::FindGuest(GuestId id) { return quire::FindGuest(guests_, id); }

void MemoryManager::WriteOutSurplus() {
  while (store_.IsOverShare() && !writer_.stopping()) {
    if (store_.WriteOut(kWriteAtOnce) > ByteCount()) continue;
    writer_.Rest(kWriterRests);
    return;
  }
}

void MemoryManager::CancelSwap() {
  for (const std::unique_ptr<SwapArea>& area : store_.areas()) area->store().Cancel();
}

// What cannot be won now, because its pages are being stored or written, is left for the next time.
void MemoryManager::CompactZones() {
  while (!zones_.stopping() && store_.IsScattered() && store_.CompactZone(kCompactAtOnce) > PageCount()) {
  }
}

// What can go out does so in its turn, and takes no memory at all then.
void MemoryManager::RecompressCold() {
  while (!recompressor_.stopping() && pool_->FreePages() < pool_->watermarks().high && !store_.HasRoomInArea()) {
    const MonotonicTime start = RealClock().Now();
    if (store_.Recompress(kRecompressAtOnce).tried == PageCount()) return;
    recompressor_.Rest((kRecompressorShare - 1) * (RealClock().Now() - start));
  }
}

bool MemoryManager::AllCanGoToArea() {
  if (!store_.HasRoomInArea()) return false;
  absl::MutexLock lock(&guests_lock_);
  return std::none_of(guests_.begin(), guests_.end(), [](const auto& guest) { return guest->has_swap_limit(); });
}

// What the store can give by work of its own, when reclaim finds nothing that could be stored.
bool MemoryManager::SqueezeStore() {
  if (store_.WriteOut(kWriteAtOnce) > ByteCount()) return true;
  if (store_.CompactZone(kCompactAtOnce) >= kWorthAnotherTry) return true;
  if (store_.IsAwaitingArea() || AllCanGoToArea()) return false;
  // Nothing more can be stored, but for the want of slots.
  if (pool_->IsShortForTables() && pool_->MakeRoomForTables()) return true;
  // Young pages too: the next fault that comes here moves what is left of them together.
  return store_.Recompress(kRecompressForFault, SwapSpace::Age::kAny).saved > ByteCount();
}

void MemoryManager::OutOfMemory(GuestMemory& asking) {
  // Several may be here, and one of them was first.
  if (pool_->FreePages() > pool_->watermarks().min || SqueezeStore()) return;
  if (store_.IsAwaitingArea() || AllCanGoToArea()) {
    absl::SleepFor(SwapSpace::kAwaitArea);
    return;
  }
  absl::MutexLock lock(&guests_lock_);
  pool_->arena().DrainCpuLists();  // what lies there counts as free for nobody
  // Somebody else may have been here before, or freed enough by other means.
  if (asking.stopped() || pool_->FreePages() > pool_->watermarks().min) return;
  const SwapSpace::Statistics stored = store_.statistics();
  GuestMemory* const victim = LargestGuest(stored);
  if (victim == nullptr) return;
  victim->Stop(absl::ResourceExhaustedError(absl::StrFormat(
      "the pool's limit of %.0f MiB is reached and nothing more can be compressed (%.0f MiB of stored pages take "
      "%.0f MiB)%s; guest-%u, which holds the most (%.0f MiB), has been stopped; %s",
      pool_->budget().limit().bytes().in_mib(), stored.stored.bytes().in_mib(), stored.held.bytes().in_mib(),
      store_.DescribeAreas(), victim->id(), Charge(*victim, stored).bytes().in_mib(), out_of_memory_advice_)));
  victim->Discard(GfnRange(Gfn(0), victim->size()));
}

GuestMemory* MemoryManager::LargestGuest(const SwapSpace::Statistics& stored) {
  GuestMemory* largest = nullptr;
  for (const auto& guest : guests_) {
    if (guest->stopped() || guest->frozen()) continue;  // clones live on a template
    if (largest == nullptr || Charge(*guest, stored) > Charge(*largest, stored)) largest = guest.get();
  }
  return largest;
}

PageCount MemoryManager::Charge(const GuestMemory& guest, const SwapSpace::Statistics& stored) const {
  const uint64_t swapped = guest.counts()[PageState::kSwapped].in_pages();
  const uint64_t all = std::max<uint64_t>(stored.stored.in_pages(), 1);
  const uint64_t shared = guest.counts()[PageState::kShared].in_pages();
  const uint64_t sharers = std::max<uint64_t>(shared_.sharers().in_pages(), 1);
  return guest.frames_held() + PageCount(swapped * stored.held.in_pages() / all) +
         PageCount(shared * shared_.frames().in_pages() / sharers);
}

PageCount MemoryManager::PagesIn(PageState state) {
  absl::MutexLock lock(&guests_lock_);
  PageCount pages;
  for (const auto& guest : guests_) pages += guest->counts()[state];
  return pages;
}

ByteCount MemoryManager::metadata() {
  // Their locks come before that of the guests.
  const ByteCount merging = merger_.metadata();
  const ByteCount stored = store_.metadata();
  absl::MutexLock lock(&guests_lock_);
  ByteCount bytes = stored + pool_->metadata() + shared_.metadata() + merging;
  for (const auto& guest : guests_) bytes += guest->metadata();
  return bytes;
}

absl::Status MemoryManager::CheckSlots() {
  absl::flat_hash_map<SwapSlot, uint32_t> pages;  // that have a slot
  uint64_t swapped = 0;
  for (const auto& guest : guests_) {
    for (Gfn gfn; gfn < Gfn(0) + guest->size(); ++gfn) {
      const PageEntry entry = guest->EntryOf(gfn);
      const std::optional<SwapSlot> kept = entry.kept();
      if (entry.state() != PageState::kSwapped && !kept.has_value()) continue;
      const SwapSlot slot = kept.has_value() ? *kept : entry.slot();
      if (!kept.has_value()) ++swapped;
      if (const uint32_t most = std::max(store_.RefsOf(slot), 1u); ++pages[slot] <= most) continue;
      return absl::InternalError(absl::StrCat("invariant 5: page ", gfn.value(), " of guest ", guest->id(),
                                              " has slot ", slot.value(), ", which enough other pages have"));
    }
  }
  const uint64_t stored = store_.statistics().stored.in_pages();
  if (swapped == stored) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("invariant 5: guests have ", swapped, " swapped pages, but the store holds ", stored));
}

// Each shared page belongs to the frame that it names: GuestMemory::Check looks. Here: no frame has others.
absl::Status MemoryManager::CheckShared() {
  PageCount sharing;
  PageCount islands;
  for (const auto& guest : guests_) {
    const PageCount pages = guest->counts()[PageState::kShared];
    sharing += pages;
    if (!guest->reservation().empty()) islands += pages + guest->view_charge();
  }
  if (islands != islands_.charged()) {
    return absl::InternalError(absl::StrCat("invariant 14: ", islands.in_pages(),
                                            " pages of windows share frames, but ", islands_.charged().in_pages(),
                                            " are charged"));
  }
  if (sharing == shared_.sharers()) return shared_.Check();
  return absl::InternalError(absl::StrCat("invariant 14: guests have ", sharing.in_pages(),
                                          " pages that share frames, but these count ", shared_.sharers().in_pages()));
}

absl::Status MemoryManager::CheckWired() {
  PageCount wired;
  for (const auto& guest : guests_) wired += guest->wired();
  if (wired == wiring_.limit.charged()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("invariant 15: guests have ", wired.in_pages(), " wired pages, but ",
                                          wiring_.limit.charged().in_pages(), " are charged"));
}

absl::Status MemoryManager::Check() {
  absl::MutexLock lock(&guests_lock_);
  for (const auto& guest : guests_) {
    if (absl::Status status = guest->Check(); !status.ok()) return status;
  }
  if (absl::Status status = CheckSlots(); !status.ok()) return status;
  if (absl::Status status = CheckShared(); !status.ok()) return status;
  if (absl::Status status = CheckWired(); !status.ok()) return status;
  if (absl::Status status = store_.Check(); !status.ok()) return status;
  return pool_->Check();
}

}  // namespace quire
