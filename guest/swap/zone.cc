#include "guest/swap/zone.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace quire {

Zone::Zone(Pool& pool, SlabTable& slabs, Gauge& held, uint8_t number, ZoneOptions options)
    : options_(std::move(options)),
      keg_(pool, slabs, held, number, options_.object_bytes),
      capacity_(std::clamp<size_t>(2 * kPageSize / options_.object_bytes, 1, kMostInBucket)),
      bucket_count_(options_.buckets != 0
                        ? options_.buckets
                        : std::clamp<size_t>(static_cast<size_t>(sysconf(_SC_NPROCESSORS_CONF)), 1, kMostBuckets)),
      buckets_(new Bucket[bucket_count_]) {}

absl::StatusOr<SlabObject> Zone::Allocate() {
  if (!Charge()) {
    over_limit_.Add();
    failures_.Add();
    return absl::ResourceExhaustedError(
        absl::StrCat("zone ", options_.name, ": all ", options_.limit,
                     " objects of its limit are in use; free some, or raise the limit"));
  }
  absl::StatusOr<SlabObject> object = Take();
  if (object.ok() && options_.construct) object = Construct(*object);
  if (object.ok()) return object;
  failures_.Add();
  Uncharge();
  return object;
}

absl::StatusOr<SlabObject> Zone::Take() {
  {
    Bucket& bucket = LocalBucket();
    absl::MutexLock lock(&bucket.lock);
    ++bucket.requests;
    if (bucket.size > 0) return bucket.objects[--bucket.size];
  }
  absl::StatusOr<SlabObject> object = keg_.Allocate();
  if (object.ok()) return object;
  // Other CPUs may have some.
  Drain();
  return keg_.Allocate();
}

absl::StatusOr<SlabObject> Zone::Construct(SlabObject object) {
  const absl::Status constructed = options_.construct(object);
  if (constructed.ok()) return object;
  keg_.Free(object);
  return absl::Status(constructed.code(),
                      absl::StrCat("zone ", options_.name, ": constructing an object: ", constructed.message()));
}

void Zone::Free(SlabObject object) {
  Uncharge();
  {
    Bucket& bucket = LocalBucket();
    absl::MutexLock lock(&bucket.lock);
    if (bucket.size < capacity_ && !bypass_.load(std::memory_order_relaxed)) {
      bucket.objects[bucket.size++] = object;
      return;
    }
  }
  keg_.Free(object);
}

void Zone::Drain() {
  for (size_t i = 0; i < bucket_count_; ++i) {
    Bucket& bucket = buckets_[i];
    absl::MutexLock lock(&bucket.lock);
    while (bucket.size > 0) keg_.Free(bucket.objects[--bucket.size]);
  }
}

bool Zone::Charge() {
  if (options_.limit == 0) return true;
  if (in_use_.fetch_add(1, std::memory_order_relaxed) < options_.limit) return true;
  Uncharge();
  return false;
}

void Zone::Uncharge() {
  if (options_.limit != 0) in_use_.fetch_sub(1, std::memory_order_relaxed);
}

ZoneStatistics Zone::statistics() const {
  uint64_t cached = 0;
  uint64_t requests = over_limit_.value();
  for (size_t i = 0; i < bucket_count_; ++i) {
    absl::MutexLock lock(&buckets_[i].lock);
    cached += buckets_[i].size;
    requests += buckets_[i].requests;
  }
  const Keg::Statistics s = keg_.statistics();
  cached = std::min(cached, s.used);  // they are not of one moment
  return {.name = options_.name,
          .size = ByteCount::Bytes(options_.object_bytes),
          .limit = options_.limit,
          .used = s.used - cached,
          .free = s.free + cached,
          .requests = requests,
          .failures = failures_.value(),
          .frames = s.frames};
}

}  // namespace quire
