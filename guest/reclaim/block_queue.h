// First-in, first-out queues of blocks, linked through the blocks themselves.
#ifndef QUIRE_GUEST_RECLAIM_BLOCK_QUEUE_H_
#define QUIRE_GUEST_RECLAIM_BLOCK_QUEUE_H_

#include <cstddef>
#include <utility>

#include "base/check.h"
#include "guest/memory_map.h"

namespace quire {

// Not thread safe. A block is on one queue at a time by the same links; no memory is allocated.
class BlockQueue {
 public:
  explicit BlockQueue(BlockLinks Block::*links = &Block::links) : links_(links) {}
  BlockQueue(const BlockQueue&) = delete;
  BlockQueue& operator=(const BlockQueue&) = delete;
  ~BlockQueue() { QUIRE_CHECK(empty()); }

  bool empty() const { return head_ == nullptr; }
  size_t size() const { return size_; }

  void PushBack(Block& block) {
    block.*links_ = {.next = nullptr, .previous = tail_};
    (tail_ != nullptr ? (tail_->*links_).next : head_) = &block;
    tail_ = &block;
    ++size_;
  }

  // The oldest block, or null.
  Block* front() const { return head_; }
  Block* PopFront() {
    Block* const block = head_;
    if (block != nullptr) Remove(*block);
    return block;
  }

  void Remove(Block& block) {
    const BlockLinks was = std::exchange(block.*links_, {});
    (was.previous != nullptr ? (was.previous->*links_).next : head_) = was.next;
    (was.next != nullptr ? (was.next->*links_).previous : tail_) = was.previous;
    --size_;
  }

  template <class Visit>
  void ForEach(Visit visit) {
    for (Block* block = head_; block != nullptr; block = (block->*links_).next) visit(*block);
  }

  template <class Predicate>
  void RemoveIf(Predicate predicate) {
    for (Block* block = head_; block != nullptr;) {
      Block* const next = (block->*links_).next;
      if (predicate(*block)) Remove(*block);
      block = next;
    }
  }

 private:
  BlockLinks Block::*const links_;
  Block* head_ = nullptr;
  Block* tail_ = nullptr;
  size_t size_ = 0;
};

}  // namespace quire

#endif  // QUIRE_GUEST_RECLAIM_BLOCK_QUEUE_H_
