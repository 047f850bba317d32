#include "base/unique_fd.h"

#include <fcntl.h>

#include <utility>

#include "gtest/gtest.h"

namespace quire {
namespace {

bool IsOpen(int fd) { return fcntl(fd, F_GETFD) != -1; }

int OpenNull() { return open("/dev/null", O_RDONLY | O_CLOEXEC); }

TEST(UniqueFdTest, ClosesWhatItOwns) {
  int raw;
  {
    UniqueFd fd(OpenNull());
    ASSERT_TRUE(fd.valid());
    raw = fd.get();
    EXPECT_TRUE(IsOpen(raw));
  }
  EXPECT_FALSE(IsOpen(raw));
}

TEST(UniqueFdTest, NegativeIsNone) {
  EXPECT_FALSE(UniqueFd().valid());
  EXPECT_FALSE(UniqueFd(-1).valid());
}

TEST(UniqueFdTest, MovingLeavesTheSourceEmpty) {
  UniqueFd a(OpenNull());
  const int raw = a.get();
  UniqueFd b(std::move(a));
  EXPECT_FALSE(a.valid());  // NOLINT: reading the moved-from object is the point
  EXPECT_EQ(b.get(), raw);
}

TEST(UniqueFdTest, AssigningClosesTheOldOne) {
  UniqueFd a(OpenNull());
  UniqueFd b(OpenNull());
  const int old = a.get();
  a = std::move(b);
  EXPECT_FALSE(IsOpen(old));
  EXPECT_TRUE(IsOpen(a.get()));
}

TEST(UniqueFdTest, ReleaseDoesNotClose) {
  UniqueFd a(OpenNull());
  const int raw = a.release();
  EXPECT_FALSE(a.valid());
  a.reset();
  EXPECT_TRUE(IsOpen(raw));
  close(raw);
}

}  // namespace
}  // namespace quire
