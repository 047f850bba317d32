#include "base/thread.h"

#include <pthread.h>

#include <string>
#include <thread>

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

TEST(ThreadTest, NameIsCutToFifteenCharacters) {
  std::string seen;
  std::thread([&] {
    SetThreadName("reclaim/0123456789");
    char name[32];
    pthread_getname_np(pthread_self(), name, sizeof(name));
    seen = name;
  }).join();
  EXPECT_EQ(seen, "reclaim/0123456");
}

TEST(ThreadTest, CpuTimeIsTheCallingThreadsOwn) {
  const absl::Duration start = ThreadCpuTime();
  while (ThreadCpuTime() - start < absl::Milliseconds(20)) {
  }
  absl::Duration other = absl::InfiniteDuration();
  std::thread([&] { other = ThreadCpuTime(); }).join();
  EXPECT_LT(other, ThreadCpuTime());
}

}  // namespace
}  // namespace quire
