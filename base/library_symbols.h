// Functions of a library that is loaded while the program runs.
#ifndef QUIRE_BASE_LIBRARY_SYMBOLS_H_
#define QUIRE_BASE_LIBRARY_SYMBOLS_H_

#include <dlfcn.h>

namespace quire {

// Looks symbols up, and remembers the first that is missing. Belongs to one thread.
class LibrarySymbols {
 public:
  // What dlopen() has returned.
  explicit LibrarySymbols(void* library) : library_(library) {}

  // Null if there is none of this name; it is then missing().
  template <class Function>
  void Get(const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library_, name));
    if (function == nullptr && missing_ == nullptr) missing_ = name;
  }
  // The name that was not found first; null: none.
  const char* missing() const { return missing_; }

 private:
  void* const library_;
  const char* missing_ = nullptr;
};

}  // namespace quire

#endif  // QUIRE_BASE_LIBRARY_SYMBOLS_H_
