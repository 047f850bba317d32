#include "guest/swap/file_io.h"

#include <liburing.h>
#include <sched.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/check.h"

namespace quire {
namespace {

class PreadIo final : public FileIo {
 public:
  explicit PreadIo(int fd) : fd_(fd) {}

  void Run(FileDirection direction, absl::Span<FileRequest> requests) override {
    for (FileRequest& request : requests) {
      FileRequest::Step step;
      do {
        step = request.Advance(direction, Ask(direction, request));
      } while (step == FileRequest::Step::kAgain);
      if (step == FileRequest::Step::kFailed) return;
    }
  }

 private:
  ssize_t Ask(FileDirection direction, const FileRequest& request) const {
    const auto call = direction == FileDirection::kRead ? preadv : pwritev;
    const ssize_t moved = call(fd_, request.pieces(), request.piece_count(), static_cast<off_t>(request.offset()));
    return moved >= 0 ? moved : -errno;
  }

  const int fd_;
};

// Requests under way at once in one ring: enough for any disk, and of 1 MiB each a bound on what is pinned.
constexpr unsigned kDepth = 32;

// One thread at a time uses it, from its first request to the last answer.
class Ring {
 public:
  // Null: `error` is an errno.
  static std::unique_ptr<Ring> Create(int& error) {
    std::unique_ptr<Ring> ring(new Ring);
    error = -io_uring_queue_init(kDepth, &ring->ring_, 0);
    ring->live_ = error == 0;
    if (ring->live_) error = ring->Try();
    return error == 0 ? std::move(ring) : nullptr;
  }
  ~Ring() {
    if (live_) io_uring_queue_exit(&ring_);
  }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  void Run(int fd, FileDirection direction, absl::Span<FileRequest> requests) {
    size_t next = 0;
    bool failed = false;
    do {
      while (!failed && next < requests.size() && under_way_ < kDepth) Queue(fd, direction, requests[next++]);
      SubmitAndWait();
      failed |= !TakeAnswers(fd, direction);
    } while (under_way_ > 0 || (!failed && next < requests.size()));
  }

 private:
  Ring() = default;

  // A request that does nothing: some hosts let a ring be made, and not used. Returns an errno.
  int Try() {
    io_uring_prep_nop(io_uring_get_sqe(&ring_));
    int result;
    do {
      result = io_uring_submit_and_wait(&ring_, 1);
    } while (result == -EINTR);
    if (result < 0) return -result;
    io_uring_cqe* answer;
    // A signal may end the wait before the answer is there.
    do {
      result = io_uring_wait_cqe(&ring_, &answer);
    } while (result == -EINTR);
    if (result < 0) return -result;
    io_uring_cqe_seen(&ring_, answer);
    return 0;
  }

  void Queue(int fd, FileDirection direction, FileRequest& request) {
    io_uring_sqe* const entry = io_uring_get_sqe(&ring_);
    QUIRE_CHECK(entry != nullptr);  // never more under way than the queue has entries
    const auto prepare = direction == FileDirection::kRead ? io_uring_prep_readv : io_uring_prep_writev;
    prepare(entry, fd, request.pieces(), static_cast<unsigned>(request.piece_count()), request.offset());
    io_uring_sqe_set_data(entry, &request);
    ++under_way_;
  }

  // Returns when an answer is there, or a signal came.
  void SubmitAndWait() {
    const int result = io_uring_submit_and_wait(&ring_, 1);
    if (result >= 0 || result == -EINTR) return;
    QUIRE_CHECK(result == -EAGAIN || result == -EBUSY);  // the kernel has no memory for it just now
    sched_yield();
  }

  // False: one of them failed.
  bool TakeAnswers(int fd, FileDirection direction) {
    bool good = true;
    io_uring_cqe* answer;
    while (io_uring_peek_cqe(&ring_, &answer) == 0) {
      FileRequest& request = *static_cast<FileRequest*>(io_uring_cqe_get_data(answer));
      const int result = answer->res;
      io_uring_cqe_seen(&ring_, answer);
      --under_way_;
      const FileRequest::Step step = request.Advance(direction, result);
      if (step == FileRequest::Step::kAgain) Queue(fd, direction, request);
      good &= step != FileRequest::Step::kFailed;
    }
    return good;
  }

  io_uring ring_ = {};
  bool live_ = false;
  unsigned under_way_ = 0;
};

// Rings are handed out, one to a call, rather than one to a thread: threads come and go, and a store does not know
// them.
class UringIo final : public FileIo {
 public:
  // Calls that are under way at once; others wait for one of these to end.
  static constexpr size_t kRings = 8;

  UringIo(int fd, std::vector<std::unique_ptr<Ring>> rings) : fd_(fd), alone_(fd), idle_(std::move(rings)) {}

  void Run(FileDirection direction, absl::Span<FileRequest> requests) override {
    // A ring has nothing to do side by side for one alone, and wakes another thread where the filesystem may block.
    if (requests.size() <= 1) return alone_.Run(direction, requests);
    std::unique_ptr<Ring> ring = Take();
    ring->Run(fd_, direction, requests);
    absl::MutexLock lock(&lock_);
    idle_.push_back(std::move(ring));
  }

 private:
  std::unique_ptr<Ring> Take() {
    absl::MutexLock lock(&lock_);
    lock_.Await(absl::Condition(
        +[](std::vector<std::unique_ptr<Ring>>* idle) { return !idle->empty(); }, &idle_));
    std::unique_ptr<Ring> ring = std::move(idle_.back());
    idle_.pop_back();
    return ring;
  }

  const int fd_;
  PreadIo alone_;
  absl::Mutex lock_;
  std::vector<std::unique_ptr<Ring>> idle_ ABSL_GUARDED_BY(lock_);
};

}  // namespace

std::unique_ptr<FileIo> MakePreadIo(int fd) { return std::make_unique<PreadIo>(fd); }

absl::StatusOr<std::unique_ptr<FileIo>> MakeUringIo(int fd) {
  std::vector<std::unique_ptr<Ring>> rings;
  while (rings.size() < UringIo::kRings) {
    int error;
    std::unique_ptr<Ring> ring = Ring::Create(error);
    // Fewer will do: before Linux 5.12 they count as locked memory, of which a user may have little.
    if (ring == nullptr && !rings.empty()) break;
    if (ring == nullptr) {
      return absl::FailedPreconditionError(absl::StrCat("io_uring is not to be had: ", std::strerror(error)));
    }
    rings.push_back(std::move(ring));
  }
  return std::make_unique<UringIo>(fd, std::move(rings));
}

}  // namespace quire
