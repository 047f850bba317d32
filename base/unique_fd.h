// A file descriptor with one owner.
#ifndef QUIRE_BASE_UNIQUE_FD_H_
#define QUIRE_BASE_UNIQUE_FD_H_

#include <unistd.h>

#include <utility>

namespace quire {

// Closes the descriptor when it goes. Move-only; not thread safe.
class UniqueFd {
 public:
  UniqueFd() = default;
  // Takes ownership. A negative number means none, so the result of open() can be passed as it is.
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
  }
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  // Gives the descriptor up without closing it.
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }
  // Closes what is held and takes `fd` instead. An error of close() is not reported: nothing can be done about it, and
  // whoever needs written data to be safe calls fsync() first.
  void reset(int fd = -1) {
    if (fd_ >= 0) close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

}  // namespace quire

#endif  // QUIRE_BASE_UNIQUE_FD_H_
