// The generated code needs this annotation, which Java has no longer had since version 9.
package javax.annotation;

public @interface Generated {
    String value();
    String comments();
}
