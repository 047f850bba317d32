#include "guest/swap/keg.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace quire {

// The slab size that wastes the smallest share at its end; the smaller one of two alike.
uint32_t Keg::BestSlabFrames(uint32_t object_bytes) {
  uint32_t best = 1;
  double best_waste = 1;
  for (uint32_t frames = 1; frames <= Slab::kMaxFrames; ++frames) {
    const double bytes = static_cast<double>(frames * kPageSize);
    const uint64_t objects = std::min<uint64_t>(frames * kPageSize / object_bytes, Slab::kMaxObjects);
    const double waste = 1 - static_cast<double>(objects * object_bytes) / bytes;
    if (waste < best_waste - 0.002) best = frames, best_waste = waste;
  }
  return best;
}

Keg::Keg(Pool& pool, SlabTable& slabs, Gauge& held, uint8_t number, uint32_t object_bytes)
    : pool_(pool),
      slabs_(slabs),
      all_held_(held),
      number_(number),
      object_bytes_(object_bytes),
      header_(object_bytes < kPageSize ? kHeader : 0),
      slab_frames_(BestSlabFrames(object_bytes)),
      slab_objects_(std::min<uint32_t>(slab_frames_ * kPageSize / object_bytes, Slab::kMaxObjects)),
      group_scale_((kGroups << 16) / slab_objects_) {
  QUIRE_CHECK(object_bytes % kHeader == 0 && object_bytes > kHeader && object_bytes <= kPageSize);
  lists_.fill(kNone);
}

absl::StatusOr<SlabObject> Keg::Allocate() {
  absl::MutexLock lock(&lock_);
  ++counts_.requests;
  absl::StatusOr<SlabObject> object = AllocateLocked();
  if (!object.ok()) ++counts_.failures;
  return object;
}

absl::StatusOr<SlabObject> Keg::AllocateLocked() { return listed_ != 0 ? TakeFrom(Fullest()) : TakeFromNewSlab(); }

absl::StatusOr<SlabObject> Keg::TakeFrom(uint32_t id) {
  Slab& slab = slabs_[id];
  const uint32_t index = LowestFree(slab);
  if (absl::Status status = Grow(slab, id, FramesFor(index + 1)); !status.ok()) return status;
  slab.taken[index / 64] |= uint64_t{1} << index % 64;
  ++slab.used;
  ++counts_.used;
  Relist(id);
  return SlabObject{.slab = id, .index = static_cast<uint16_t>(index)};
}

absl::StatusOr<SlabObject> Keg::TakeFromNewSlab() {
  const uint32_t id = slabs_.Take();
  if (id == kNone) return absl::UnavailableError("there is no memory for another slab in the table of them");
  slabs_[id].keg.store(number_, std::memory_order_relaxed);
  ++counts_.slabs;
  absl::StatusOr<SlabObject> object = TakeFrom(id);
  if (!object.ok()) GiveUp(id);
  return object;
}

void Keg::Free(SlabObject object) {
  absl::MutexLock lock(&lock_);
  FreeLocked(object);
}

void Keg::FreeLocked(SlabObject object) {
  Slab& slab = slabs_[object.slab];
  QUIRE_CHECK(slab.keg.load(std::memory_order_relaxed) == number_ && IsTaken(slab, object.index));
  slab.taken[object.index / 64] &= ~(uint64_t{1} << object.index % 64);
  --slab.used;
  --counts_.used;
  if (FramesFor(object.index + uint32_t{1}) == slab.held) Shrink(slab, FramesFor(EndOfTaken(slab)));
  if (slab.draining) return;
  if (slab.used > 0) {
    Relist(object.slab);
  } else {
    Unlist(object.slab);
    GiveUp(object.slab);
  }
}

// Has the slab have at least so many frames.
absl::Status Keg::Grow(Slab& slab, uint32_t id, uint32_t frames) {
  const uint8_t before = slab.held;
  while (slab.held < frames) {
    const absl::StatusOr<FrameNumber> frame = pool_.arena().Allocate(0, Reserve::kReclaim);
    if (!frame.ok()) {
      Shrink(slab, before);
      return frame.status();
    }
    pool_.arena().frames().Set(*frame, FrameDescriptor::Zone(/*order=*/0, id));
    slab.frames[slab.held++] = static_cast<uint32_t>(frame->value());
    counts_.frames += kOnePage;
    all_held_.Add();
  }
  return absl::OkStatus();
}

void Keg::Shrink(Slab& slab, uint32_t frames) {
  while (slab.held > frames) {
    pool_.arena().Free(FrameNumber(slab.frames[--slab.held]), 0);
    counts_.frames -= kOnePage;
    all_held_.Subtract();
  }
}

// A slab without objects, and so without frames.
void Keg::GiveUp(uint32_t id) {
  Slab& slab = slabs_[id];
  QUIRE_CHECK(slab.used == 0 && slab.held == 0 && slab.list == Slab::kNone);
  slab.keg.store(Slab::kNone, std::memory_order_relaxed);
  --counts_.slabs;
  slabs_.Return(id);
}

// --- Which slabs have room.

uint32_t Keg::LowestFree(const Slab& slab) {
  uint32_t word = 0;
  while (word + 1 < slab.taken.size() && slab.taken[word] == ~uint64_t{0}) ++word;
  return word * 64 + static_cast<uint32_t>(std::countr_one(slab.taken[word]));
}

uint32_t Keg::EndOfTaken(const Slab& slab) {
  for (uint32_t word = slab.taken.size(); word-- > 0;) {
    if (slab.taken[word] != 0) return word * 64 + static_cast<uint32_t>(std::bit_width(slab.taken[word]));
  }
  return 0;
}

uint32_t Keg::Fullest() const { return lists_[static_cast<uint32_t>(std::bit_width(listed_)) - 1]; }

uint32_t Keg::Emptiest() const {
  const uint32_t groups = (listed_ | listed_ >> kGroups) & ((1u << kGroups) - 1);
  if (groups == 0) return kNone;
  const uint32_t group = static_cast<uint32_t>(std::countr_zero(groups));
  return lists_[group] != kNone ? lists_[group] : lists_[group + kGroups];
}

uint8_t Keg::ListFor(const Slab& slab) const {
  if (slab.used == slab_objects_ || slab.draining) return Slab::kNone;
  const bool has_hole = FramesFor(LowestFree(slab) + 1) <= slab.held;
  return static_cast<uint8_t>((slab.used * group_scale_ >> 16) + (has_hole ? kGroups : 0));
}

void Keg::Relist(uint32_t id) {
  Slab& slab = slabs_[id];
  const uint8_t list = ListFor(slab);
  if (list == slab.list) return;
  Unlist(id);
  if (list == Slab::kNone) return;
  slab.list = list;
  slab.previous = kNone;
  slab.next = lists_[list];
  if (slab.next != kNone) slabs_[slab.next].previous = id;
  lists_[list] = id;
  listed_ |= 1u << list;
}

void Keg::Unlist(uint32_t id) {
  Slab& slab = slabs_[id];
  if (slab.list == Slab::kNone) return;
  (slab.previous == kNone ? lists_[slab.list] : slabs_[slab.previous].next) = slab.next;
  if (slab.next != kNone) slabs_[slab.next].previous = slab.previous;
  if (lists_[slab.list] == kNone) listed_ &= ~(1u << slab.list);
  slab.list = Slab::kNone;
}

// --- Bytes.

absl::Span<std::byte> Keg::FirstPiece(const Slab& slab, size_t offset, size_t bytes) const {
  return {ByteAt(slab, offset), std::min(bytes, kPageSize - offset % kPageSize)};
}

void Keg::CopyIn(const Slab& slab, size_t offset, absl::Span<const std::byte> bytes) const {
  const absl::Span<std::byte> first = FirstPiece(slab, offset, bytes.size());
  std::memcpy(first.data(), bytes.data(), first.size());
  if (first.size() == bytes.size()) return;
  std::memcpy(ByteAt(slab, offset + first.size()), bytes.data() + first.size(), bytes.size() - first.size());
}

const std::byte* Keg::Find(const Slab& slab, size_t offset, size_t bytes, std::byte* buffer) const {
  const absl::Span<std::byte> first = FirstPiece(slab, offset, bytes);
  if (first.size() == bytes) return first.data();
  const std::byte* const rest = ByteAt(slab, offset + first.size());
  if (rest == first.data() + first.size()) return first.data();  // the frames happen to be adjacent
  std::memcpy(buffer, first.data(), first.size());
  std::memcpy(buffer + first.size(), rest, bytes - first.size());
  return buffer;
}

void Keg::Pin::Write(uint32_t owner, absl::Span<const std::byte> bytes) const {
  if (keg_.header_ > 0) keg_.OwnerOf(slab_, index_).store(owner, std::memory_order_relaxed);
  keg_.CopyIn(slab_, keg_.OffsetOf(index_) + keg_.header_, bytes);
}

const std::byte* Keg::Pin::Read(uint32_t bytes, std::byte* buffer) const {
  return keg_.Find(slab_, keg_.OffsetOf(index_) + keg_.header_, bytes, buffer);
}

// --- Frames are replaced.

FrameMigrator::Answer Keg::Replace(FrameNumber from, FrameDescriptor owner, FrameNumber to, FrameBytes bytes) {
  absl::MutexLock lock(&lock_);
  FrameTable& frames = pool_.arena().frames();
  Slab& slab = slabs_[owner.zone_value()];
  // Under the lock the slab stays this keg's, and the descriptor is right or has changed.
  if (slab.keg.load(std::memory_order_relaxed) != number_ || frames.Get(from) != owner) {
    return FrameMigrator::Answer::kBusy;
  }
  uint32_t none = 0;
  // Acquires what those who were the last to unpin it did to its bytes; pairs with ~Pin.
  if (!slab.pins.compare_exchange_strong(none, kMoving, std::memory_order_acquire, std::memory_order_relaxed)) {
    return FrameMigrator::Answer::kBusy;
  }
  if (bytes == FrameBytes::kSound) {
    std::memcpy(pool_.Frame(to), pool_.Frame(from), kPageSize);
  } else {
    std::memset(pool_.Frame(to), 0, kPageSize);
  }
  const auto end = slab.frames.begin() + slab.held;
  const auto place = std::find(slab.frames.begin(), end, from.value());
  QUIRE_CHECK(place != end);
  *place = static_cast<uint32_t>(to.value());
  frames.Set(to, owner);
  slab.pins.fetch_sub(kMoving, std::memory_order_release);  // pairs with Pin's addition
  if (bytes == FrameBytes::kSound) {
    pool_.FreeFrame(from);
  } else {
    pool_.RetireFrame(from);
  }
  return FrameMigrator::Answer::kMoved;
}

// Takes the pin back that was one too many. The slab is moved under the lock.
void Keg::WaitForMove(const Slab& slab) const {
  slab.pins.fetch_sub(1, std::memory_order_relaxed);
  absl::MutexLock moved(&lock_);
}

// --- Objects are moved together.

PageCount Keg::reclaimable() const {
  absl::MutexLock lock(&lock_);
  return ReclaimableLocked();
}

// Against full slabs and one without holes.
PageCount Keg::ReclaimableLocked() const {
  const PageCount best(counts_.used / slab_objects_ * slab_frames_ +
                       FramesFor(static_cast<uint32_t>(counts_.used % slab_objects_)));
  return counts_.frames - std::min(counts_.frames, best);
}

bool Keg::BeginDrain(Drain& drain) {
  drain.objects.clear();
  absl::MutexLock lock(&lock_);
  if (ReclaimableLocked() == PageCount()) return false;
  drain.slab = Emptiest();
  if (drain.slab == kNone) return false;
  Slab& slab = slabs_[drain.slab];
  for (uint32_t index = EndOfTaken(slab); index-- > 0;) {
    if (!IsTaken(slab, index)) continue;
    const SlabObject object = {.slab = drain.slab, .index = static_cast<uint16_t>(index)};
    drain.objects.push_back({object, OwnerOf(slab, object.index).load(std::memory_order_relaxed)});
  }
  slab.draining = true;
  Unlist(drain.slab);
  return true;
}

std::optional<SlabObject> Keg::Relocate(SlabObject object, uint32_t owner) {
  absl::MutexLock lock(&lock_);
  const Slab& from = slabs_[object.slab];
  QUIRE_CHECK(from.keg.load(std::memory_order_relaxed) == number_ && IsTaken(from, object.index));
  // With no room elsewhere, a hole of its own slab, if there is one before it.
  if (listed_ == 0 && LowestFree(from) > object.index) return std::nullopt;
  const absl::StatusOr<SlabObject> place = TakeFrom(listed_ != 0 ? Fullest() : object.slab);
  if (!place.ok()) return std::nullopt;
  const Slab& to = slabs_[place->slab];
  std::byte buffer[kPageSize];
  const std::byte* const bytes = Find(from, OffsetOf(object.index) + header_, payload_bytes(), buffer);
  CopyIn(to, OffsetOf(place->index) + header_, {bytes, payload_bytes()});
  OwnerOf(to, place->index).store(owner, std::memory_order_relaxed);
  FreeLocked(object);
  ++counts_.relocated;
  return *place;
}

void Keg::EndDrain(const Drain& drain) {
  absl::MutexLock lock(&lock_);
  slabs_[drain.slab].draining = false;
  if (slabs_[drain.slab].used > 0) {
    Relist(drain.slab);
  } else {
    GiveUp(drain.slab);
  }
}

// --- What there is.

Keg::Statistics Keg::statistics() const {
  absl::MutexLock lock(&lock_);
  Statistics s = counts_;
  const uint64_t room = std::min(s.frames.bytes().in_bytes() / object_bytes_, counts_.slabs * slab_objects_);
  s.free = room - std::min(room, s.used);
  return s;
}

absl::Status Keg::Check() const {
  absl::MutexLock lock(&lock_);
  uint64_t slabs = 0, used = 0, frames = 0, with_room = 0, listed = 0;
  for (uint32_t id = 0; id < slabs_.capacity(); ++id) {
    const Slab& slab = slabs_[id];
    if (slab.keg.load(std::memory_order_relaxed) != number_) continue;
    if (absl::Status status = CheckSlab(slab); !status.ok()) return status;
    ++slabs, used += slab.used, frames += slab.held, with_room += slab.list != Slab::kNone;
  }
  for (const uint32_t head : lists_) {
    for (uint32_t id = head; id != kNone; id = slabs_[id].next) ++listed;
  }
  const bool sound = slabs == counts_.slabs && used == counts_.used && frames == counts_.frames.in_pages();
  if (sound && with_room == listed) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("keg of ", object_bytes_, " bytes: ", slabs, " slabs hold ", frames,
                                          " frames with ", used, " objects, ", with_room,
                                          " have room, but the counts say ", counts_.slabs, ", ",
                                          counts_.frames.in_pages(), ", ", counts_.used, " and ", listed));
}

absl::Status Keg::CheckSlab(const Slab& slab) const {
  uint32_t taken = 0;
  for (const uint64_t word : slab.taken) taken += static_cast<uint32_t>(std::popcount(word));
  const bool sound = taken == slab.used && taken > 0 && !slab.draining && slab.list == ListFor(slab) &&
                     slab.held == FramesFor(EndOfTaken(slab)) && EndOfTaken(slab) <= slab_objects_;
  if (sound) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("a slab of ", object_bytes_, "-byte objects is broken: ", slab.used, " of ",
                                          slab_objects_, " used, ", taken, " taken, in ", slab.held, " frames"));
}

}  // namespace quire
