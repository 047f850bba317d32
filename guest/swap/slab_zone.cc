#include "guest/swap/slab_zone.h"

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace quire {

SlabZone::SlabZone(Pool& pool) : pool_(pool) { static_assert(kKegs < Slab::kNone, "a slab names its keg"); }

SlabZone::~SlabZone() {
  QUIRE_CHECK(held() == PageCount());
  for (const auto& keg : kegs_) delete keg.load();
}

absl::StatusOr<SlabObject> SlabZone::Allocate(uint32_t bytes) {
  QUIRE_CHECK(bytes > 0 && bytes <= kMaxObject);
  const uint32_t number = NumberFor(bytes);
  Keg* const known = keg(number);
  return (known != nullptr ? *known : MakeKeg(number)).Allocate();
}

Keg& SlabZone::MakeKeg(uint32_t number) {
  absl::MutexLock lock(&make_lock_);
  if (keg(number) == nullptr) {
    const uint32_t bytes = number + 1 < kKegs ? (number + 1) * kStep : kMaxObject;
    kegs_[number].store(new Keg(pool_, slabs_, held_, static_cast<uint8_t>(number), bytes), std::memory_order_release);
  }
  return *keg(number);
}

void SlabZone::Write(SlabObject object, uint32_t owner, absl::Span<const std::byte> bytes) {
  Pin(*this, object).Write(owner, bytes);
}

// A slab stays its keg's while it has an object.
Keg& SlabZone::KegOf(SlabObject object) const {
  const uint8_t number = slabs_[object.slab].keg.load(std::memory_order_relaxed);
  QUIRE_CHECK(number < kKegs);
  return *keg(number);
}

// The descriptor may be out of date. Slabs are never forgotten, so what it names can be looked at; the keg looks again
// under its lock.
FrameMigrator::Answer SlabZone::Migrate(FrameNumber from, FrameDescriptor owner, FrameNumber to) {
  const uint8_t number = slabs_[owner.zone_value()].keg.load(std::memory_order_relaxed);
  return number < kKegs ? keg(number)->Migrate(from, owner, to) : FrameMigrator::Answer::kBusy;
}

ByteCount SlabZone::in_objects() const {
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < kKegs; ++i) {
    if (const Keg* const k = keg(i)) bytes += k->statistics().used * k->object_bytes();
  }
  return ByteCount::Bytes(bytes);
}

PageCount SlabZone::reclaimable() const {
  PageCount frames;
  for (uint32_t i = 0; i < kKegs; ++i) {
    if (const Keg* const k = keg(i)) frames += k->reclaimable();
  }
  return frames;
}

ByteCount SlabZone::metadata() const {
  uint64_t kegs = 0;
  for (uint32_t i = 0; i < kKegs; ++i) kegs += keg(i) != nullptr;
  return slabs_.metadata() + ByteCount::Bytes(sizeof *this + kegs * sizeof(Keg));
}

std::vector<ZoneStatistics> SlabZone::statistics() const {
  std::vector<ZoneStatistics> all;
  for (uint32_t i = 0; i < kKegs; ++i) {
    const Keg* const k = keg(i);
    if (k == nullptr) continue;
    const Keg::Statistics s = k->statistics();
    all.push_back({.name = i + 1 < kKegs ? absl::StrCat("compressed-", k->object_bytes()) : "incompressible",
                   .size = ByteCount::Bytes(k->object_bytes()),
                   .used = s.used,
                   .free = s.free,
                   .requests = s.requests,
                   .failures = s.failures,
                   .frames = s.frames});
  }
  return all;
}

absl::Status SlabZone::Check() const {
  PageCount frames;
  for (uint32_t i = 0; i < kKegs; ++i) {
    const Keg* const k = keg(i);
    if (k == nullptr) continue;
    if (absl::Status status = k->Check(); !status.ok()) return status;
    frames += k->statistics().frames;
  }
  if (frames == held()) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("kegs hold ", frames.in_pages(), " frames, but the count says ", held().in_pages()));
}

}  // namespace quire
