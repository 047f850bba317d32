// A BlockSource without memory, for tests and benchmarks. It stops the program when the arena breaks the contract.
#ifndef QUIRE_GUEST_FRAMES_FAKE_BLOCK_SOURCE_H_
#define QUIRE_GUEST_FRAMES_FAKE_BLOCK_SOURCE_H_

#include <atomic>
#include <cstdint>
#include <set>

#include "absl/status/status.h"
#include "base/check.h"
#include "base/units.h"
#include "guest/frames/block_source.h"

namespace quire {

// Thread compatible as its contract says: one call at a time. The getters may be called when no call can be under way.
class FakeBlockSource : public BlockSource {
 public:
  // Grants `limit` blocks at most, the last `reserve` of them to Reserve::kReclaim only.
  explicit FakeBlockSource(uint64_t limit, uint64_t reserve = 0) : limit_(limit), reserve_(reserve) {}

  absl::Status AcquireBlock(FrameRange block, Reserve reserve) override {
    const Call call(busy_);
    QUIRE_CHECK(block.size() == kOneBlock && block.begin().value() % kPagesPerBlock == 0);
    const uint64_t limit = reserve == Reserve::kReclaim ? limit_ : limit_ - reserve_;
    if (blocks_.size() >= limit) return absl::UnavailableError("the fake source has no more blocks");
    QUIRE_CHECK(blocks_.insert(block.begin()).second);
    ++acquired_;
    return absl::OkStatus();
  }

  void ReturnBlock(FrameRange block) override {
    const Call call(busy_);
    QUIRE_CHECK(block.size() == kOneBlock);
    QUIRE_CHECK(blocks_.erase(block.begin()) == 1);
  }

  // The first frames of the blocks that are out.
  const std::set<FrameNumber>& blocks() const { return blocks_; }
  // Calls of AcquireBlock that were granted.
  uint64_t acquired() const { return acquired_; }
  void set_limit(uint64_t limit) { limit_ = limit; }

 private:
  // Notices two calls at a time.
  class Call {
   public:
    explicit Call(std::atomic<bool>& busy) : busy_(busy) { QUIRE_CHECK(!busy_.exchange(true)); }
    ~Call() { busy_ = false; }

   private:
    std::atomic<bool>& busy_;
  };

  std::atomic<bool> busy_ = false;
  uint64_t limit_;
  const uint64_t reserve_;
  std::set<FrameNumber> blocks_;
  uint64_t acquired_ = 0;
};

}  // namespace quire

#endif  // QUIRE_GUEST_FRAMES_FAKE_BLOCK_SOURCE_H_
