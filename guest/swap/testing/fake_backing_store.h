// A backing store in ordinary memory, whose transfers tests can watch, change, and have fail.
#ifndef QUIRE_GUEST_SWAP_TESTING_FAKE_BACKING_STORE_H_
#define QUIRE_GUEST_SWAP_TESTING_FAKE_BACKING_STORE_H_

#include <atomic>
#include <cstddef>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "base/units.h"
#include "guest/swap/backing_store.h"

namespace quire {

// Thread safe, but for the hooks, which are set while nobody transfers.
class FakeBackingStore final : public BackingStore {
 public:
  explicit FakeBackingStore(ByteCount size) : size_(size), bytes_(size.in_bytes()) {}

  absl::string_view name() const override { return "fake"; }
  std::string description() const override { return "the fake store"; }
  ByteCount size() const override { return size_; }

  absl::Status Write(absl::Span<const Transfer> transfers) override {
    if (on_write) {
      if (absl::Status status = on_write(); !status.ok()) return status;
    }
    absl::MutexLock lock(&lock_);
    for (const Transfer& t : transfers) {
      CheckRange(t);
      std::memcpy(bytes_.data() + t.offset.in_bytes(), t.bytes.data(), t.bytes.size());
    }
    ++writes;
    return absl::OkStatus();
  }
  absl::Status Read(absl::Span<const Transfer> transfers, IfAway) override {
    {
      absl::MutexLock lock(&lock_);
      for (const Transfer& t : transfers) {
        CheckRange(t);
        std::memcpy(t.bytes.data(), bytes_.data() + t.offset.in_bytes(), t.bytes.size());
      }
    }
    ++reads;
    transfers_read += transfers.size();
    return on_read ? on_read(transfers) : absl::OkStatus();
  }
  // What was given back reads as ones, so that nobody is taken in by what it held.
  void Discard(ByteCount offset, ByteCount length) override {
    absl::MutexLock lock(&lock_);
    std::memset(bytes_.data() + offset.in_bytes(), 0xff, length.in_bytes());
    discarded += length.in_bytes();
  }

  void FlipByte(size_t offset) {
    absl::MutexLock lock(&lock_);
    bytes_[offset] = ~bytes_[offset];
  }

  // Called before a write, and after a read, with no lock held. What they return is the result.
  std::function<absl::Status()> on_write;
  std::function<absl::Status(absl::Span<const Transfer>)> on_read;
  std::atomic<uint64_t> writes = 0, reads = 0, transfers_read = 0, discarded = 0;

 private:
  void CheckRange(const Transfer& t) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    QUIRE_CHECK(t.offset.in_bytes() % kAlignment == 0 && t.bytes.size() % kAlignment == 0);
    QUIRE_CHECK(reinterpret_cast<uintptr_t>(t.bytes.data()) % kAlignment == 0);
    QUIRE_CHECK(t.offset.in_bytes() + t.bytes.size() <= bytes_.size());
  }

  const ByteCount size_;
  absl::Mutex lock_;
  std::vector<std::byte> bytes_ ABSL_GUARDED_BY(lock_);
};

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_TESTING_FAKE_BACKING_STORE_H_
