// A named cache of objects in front of a keg (UMA's zone).
//
// Each CPU has a bucket of objects that were freed there, at most two pages' worth, so that most allocations and frees
// take no lock that another CPU wants:
//
//     Free ---> [ bucket of this CPU ] ---> Allocate
//                    | full      ^ empty: straight from the keg
//                    v           |
//                 [ keg: slabs of frames ]
//
// What lies in buckets is taken as far as the keg is concerned, and free for everybody else. It goes back when somebody
// asks for that, when the keg has no more memory, and while its objects are moved together.
#ifndef QUIRE_GUEST_SWAP_ZONE_H_
#define QUIRE_GUEST_SWAP_ZONE_H_

#include <sched.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/counters.h"
#include "base/units.h"
#include "guest/frames/pool.h"
#include "guest/swap/keg.h"
#include "guest/swap/slab_table.h"

namespace quire {

struct ZoneOptions {
  std::string name = {};
  uint32_t object_bytes = 0;  // as of Keg
  uint64_t limit = 0;         // objects in use at a time; 0: as many as there is memory for
  // Makes an object what its user expects of it. After an error there is none: Allocate returns the error. Null:
  // objects are handed out as they are.
  std::function<absl::Status(SlabObject)> construct = nullptr;
  // 0: one for each CPU of the host, at most 16; CPUs share them then.
  size_t buckets = 0;
  // Tells which CPU the caller runs on. Replaced by tests.
  int (*current_cpu)() = &sched_getcpu;
};

// A line of FreeBSD's `vmstat -z`.
struct ZoneStatistics {
  std::string name = {};
  ByteCount size = {};    // of an object, its header included
  uint64_t limit = 0;     // objects; 0: as many as there is memory for
  uint64_t used = 0;      // objects
  uint64_t free = 0;      // in buckets, or that there are frames for
  uint64_t requests = 0;  // to allocate one
  uint64_t failures = 0;  // of them
  PageCount frames = {};
};

// Thread safe. A bucket's lock is taken before the keg's, and held for a few instructions, or while it is emptied.
class Zone {
 public:
  // As of Keg.
  Zone(Pool& pool, SlabTable& slabs, Gauge& held, uint8_t number, ZoneOptions options);
  ~Zone() { Drain(); }
  Zone(const Zone&) = delete;
  Zone& operator=(const Zone&) = delete;

  Keg& keg() { return keg_; }
  const Keg& keg() const { return keg_; }

  // An object of unknown content, or as it was constructed. Never waits, never reclaims. Errors: those of
  // Arena::Allocate; ResourceExhausted: the limit is reached; those of the constructor.
  absl::StatusOr<SlabObject> Allocate();
  void Free(SlabObject object);

  // Gives the objects in buckets back to the keg.
  void Drain();

  // While this lives, the buckets are empty: objects can be moved together. One at a time.
  class Bypass {
   public:
    explicit Bypass(Zone& zone) : zone_(zone) {
      zone_.bypass_.store(true, std::memory_order_relaxed);
      zone_.Drain();
    }
    ~Bypass() { zone_.bypass_.store(false, std::memory_order_relaxed); }
    Bypass(const Bypass&) = delete;
    Bypass& operator=(const Bypass&) = delete;

   private:
    Zone& zone_;
  };

  ZoneStatistics statistics() const;
  ByteCount metadata() const { return ByteCount::Bytes(sizeof *this + bucket_count_ * sizeof(Bucket)); }

 private:
  static constexpr size_t kMostBuckets = 16;
  static constexpr size_t kMostInBucket = 6;  // a bucket is two cache lines

  // The last freed object is the next allocated.
  struct alignas(64) Bucket {
    mutable absl::Mutex lock;
    size_t size ABSL_GUARDED_BY(lock) = 0;
    uint64_t requests ABSL_GUARDED_BY(lock) = 0;
    std::array<SlabObject, kMostInBucket> objects ABSL_GUARDED_BY(lock);
  };

  Bucket& LocalBucket() {
    // A thread may be moved to another CPU right after this: the bucket has a lock, so that costs time and no more.
    return buckets_[static_cast<unsigned>(options_.current_cpu()) % bucket_count_];
  }
  absl::StatusOr<SlabObject> Take();
  absl::StatusOr<SlabObject> Construct(SlabObject object);
  // Counts one more object in use, unless the limit is reached.
  bool Charge();
  void Uncharge();

  const ZoneOptions options_;
  Keg keg_;
  const size_t capacity_;  // of a bucket
  const size_t bucket_count_;
  const std::unique_ptr<Bucket[]> buckets_;
  // Set before the buckets are drained, and read under a bucket's lock: who frees an object either was there in time to
  // be drained, or does not put it there.
  std::atomic<bool> bypass_ = false;
  std::atomic<uint64_t> in_use_ = 0;  // where there is a limit
  Counter failures_;
  Counter over_limit_;  // of them: which no bucket counted
};

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_ZONE_H_
