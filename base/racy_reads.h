// Reads of memory that others write at the same time, on purpose: what is read is only a hint, and confirmed later.
#ifndef QUIRE_BASE_RACY_READS_H_
#define QUIRE_BASE_RACY_READS_H_

#ifdef __SANITIZE_THREAD__
extern "C" void AnnotateIgnoreReadsBegin(const char* file, int line);
extern "C" void AnnotateIgnoreReadsEnd(const char* file, int line);
#endif

namespace quire {

// While this lives, ThreadSanitizer takes no notice of what this thread reads. The compiler does of course: only whole
// functions that copy, compare or hash may read so.
class RacyReads {
 public:
#ifdef __SANITIZE_THREAD__
  RacyReads() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__); }
  ~RacyReads() { AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
#else
  RacyReads() {}
  ~RacyReads() {}
#endif
  RacyReads(const RacyReads&) = delete;
  RacyReads& operator=(const RacyReads&) = delete;
};

}  // namespace quire

#endif  // QUIRE_BASE_RACY_READS_H_
